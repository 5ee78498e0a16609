// The npm package ws on both directions of a WebSocket stream: what it sends is
// published and comes back; what is no event is rejected, and the socket stays.
//
// Usage: node ws.mjs GATEWAY TOPIC
import assert from 'node:assert/strict';
import { WebSocket } from 'ws';

const [gateway, topic] = process.argv.slice(2);
const socket = new WebSocket(`${gateway.replace('http', 'ws')}/topics/${topic}`, ['unknown.one', 'cloudevents.json']);
const waiting = [];
const arrived = [];
socket.on('message', (text) => {
  const event = JSON.parse(text);
  waiting.length ? waiting.shift()(event) : arrived.push(event);
});
const next = () => (arrived.length ? arrived.shift() : new Promise((resolve) => waiting.push(resolve)));
await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
assert.equal(socket.protocol, 'cloudevents.json');

const event = { specversion: '1.0', id: 'ws-1', source: '/ws', type: 'sample', data: { n: 1 } };
socket.send(JSON.stringify(event));
const back = await next();
assert.equal(back.id, 'ws-1');
assert.deepEqual(back.data, { n: 1 });
assert.equal(back.relaytopic, topic);
assert.ok(back.relaycursor);

socket.send(JSON.stringify({ ...event, id: 'ws-2', specversion: '0.3' }));
const notice = await next();
assert.equal(notice.type, 'dev.outrelay.rejected');
assert.equal(notice.source, '/outrelay');
assert.equal(notice.data.eventid, 'ws-2');

socket.send(JSON.stringify({ ...event, id: 'ws-3' }));
assert.equal((await next()).id, 'ws-3');

socket.close(1000, 'done');
const code = await new Promise((resolve) => socket.once('close', resolve));
assert.equal(code, 1000);
