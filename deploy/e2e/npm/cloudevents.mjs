// The official JavaScript SDK publishes one event in each mode to TOPICS/MODE, and
// parses what a stream delivers and what the log keeps. Fails by an exception.
//
// Usage: node cloudevents.mjs GATEWAY TOPICS KIND   (KIND: json, geojson, text or binary)
import assert from 'node:assert/strict';
import { CloudEvent, HTTP, Mode, emitterFor, httpTransport } from 'cloudevents';
import { WebSocket } from 'ws';

const [gateway, topics, kind] = process.argv.slice(2);
const data = {
  json: ['application/json', { total: 1250, deep: [{ a: null }, true], text: 'ünïcode' }],
  geojson: ['application/geo+json', { type: 'Point', coordinates: [-122.197, 46.2035] }],
  text: ['text/plain', 'two lines\nand "quotes" & ünïcode \u{1F30B}'],
  binary: ['application/octet-stream', new Uint8Array([0, 1, 2, 0xfe, 0xff])],
}[kind];
const sent = new CloudEvent({
  id: 'A-17',
  source: 'https://shop.example/eu',
  type: 'example.order.paid',
  subject: 'order/17',
  time: '2026-01-31T12:00:00.123Z',
  tenant: 'north',
  datacontenttype: data[0],
  data: data[1],
});

const socket = new WebSocket(`${gateway.replace('http', 'ws')}/topics/${topics}/*`, 'cloudevents.json');
const received = [];
const three = new Promise((resolve, reject) => {
  socket.on('error', reject);
  socket.on('close', () => reject(new Error('the stream closed')));
  socket.on('message', (text, isBinary) => {
    assert.equal(isBinary, false);
    if (received.push(text.toString()) === 3) resolve();
  });
});
await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
assert.equal(socket.protocol, 'cloudevents.json');

// binary and structured mode through the SDK's emitter
for (const mode of [Mode.BINARY, Mode.STRUCTURED]) {
  const emit = emitterFor(httpTransport(`${gateway}/topics/${topics}/${mode}`), { binding: HTTP, mode });
  const answer = await emit(sent);
  assert.equal(JSON.parse(answer.body).accepted, 1, `${mode}: ${answer.body}`);
}
// the SDK has no emitter for batches: the array of its structured forms
const batch = await fetch(`${gateway}/topics/${topics}/batch`, {
  method: 'POST',
  headers: { 'content-type': 'application/cloudevents-batch+json' },
  body: `[${HTTP.structured(sent).body}]`,
});
assert.equal(batch.status, 200, await batch.text());

await three;
const bare = (text) => text.replace(/,"relaytopic":"[^"]*"/, '').replace(/,"relaycursor":"[^"]*"/, '');
['binary', 'structured', 'batch'].forEach((mode, i) => {
  assert.equal(bare(received[i]), bare(received[0]), `${mode} mode arrives as binary mode does`);
  const got = HTTP.toEvent({ headers: { 'content-type': 'application/cloudevents+json' }, body: received[i] });
  assert.equal(got.relaytopic, `${topics}/${mode}`);
  same(got);
});

// a history page is a batch, which the SDK parses too
const page = await fetch(`${gateway}/topics/${topics}/*`);
const kept = HTTP.toEvent({ headers: Object.fromEntries(page.headers), body: await page.text() });
assert.equal(kept.length, 3);
kept.forEach(same);

socket.removeAllListeners('close').close(1000);
await new Promise((resolve) => socket.once('close', resolve));

function same(got) {
  got.validate();
  for (const name of ['id', 'source', 'type', 'subject', 'time', 'tenant', 'datacontenttype']) {
    assert.equal(got[name], sent[name], name);
  }
  if (kind === 'binary') {
    assert.equal(got.data_base64, Buffer.from(data[1]).toString('base64'));
  } else {
    assert.deepEqual(got.data, sent.data);
  }
}
