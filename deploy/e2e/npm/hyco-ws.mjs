// Microsoft's package hyco-ws listens and sends through the relay.
//
// Usage: node hyco-ws.mjs GATEWAY KEYNAME KEYFILE SCENARIO
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';

const hyco = createRequire(import.meta.url)('hyco-ws');
const [gateway, keyName, keyFile, scenario] = process.argv.slice(2);
const key = readFileSync(keyFile, 'utf8');
const { host, hostname } = new URL(gateway);

// The package's own helpers insist on port 443; all else takes any address.
const address = (path, action, query = '') => `wss://${host}/$hc/${path}?sb-hc-action=${action}${query}`;
const token = (path, seconds) => hyco.createRelayToken(`http://${hostname}/${path}`, keyName, key, seconds);

// listen opens a listener and resolves once it is registered.
async function listen(path, onConnection, options = {}) {
  const server = hyco.createRelayedServer({ server: address(path, 'listen'), token: token(path), ...options }, onConnection);
  server.on('error', () => {}); // it connects again by itself
  await once(server, 'listening');
  return server;
}

// echo sends back what comes.
const echo = (socket) => {
  socket.on('message', (data, flags) => socket.send(data, { binary: flags.binary === true }));
};

// connect opens a sender.
function connect(path, query = '') {
  return new Promise((resolve, reject) => {
    const socket = hyco.relayedConnect(address(path, 'connect', query), token(path), resolve);
    socket.on('error', reject);
  });
}

// next is the next message of a socket.
const next = (socket) => new Promise((resolve, reject) => {
  socket.once('message', (data, flags) => resolve({ data, binary: flags.binary === true }));
  socket.once('close', (code) => reject(new Error(`closed with ${code}`)));
});

const scenarios = {
  async echo() {
    await listen('hyco/echo', echo);
    const socket = await connect('hyco/echo');
    for (const text of ['hello', '', 'ß→𐍈']) {
      const answer = next(socket);
      socket.send(text);
      assert.deepEqual(await answer, { data: text, binary: false });
    }
    const bytes = randomBytes(70000);
    const answer = next(socket);
    socket.send(bytes, { binary: true });
    const { data, binary } = await answer;
    assert.ok(binary);
    assert.ok(bytes.equals(data));
  },
};

const limit = setTimeout(() => {
  console.error(`${scenario} took too long`);
  process.exit(1);
}, 100_000);
await scenarios[scenario]();
clearTimeout(limit);
process.exit(0);
