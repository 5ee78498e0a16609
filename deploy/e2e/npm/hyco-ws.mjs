// Microsoft's package hyco-ws listens and sends through the relay.
//
// Usage: node hyco-ws.mjs GATEWAY KEYNAME KEYFILE SCENARIO [ARGUMENT]
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { WebSocket } from 'ws'; // for what hyco-ws can't do

const hyco = createRequire(import.meta.url)('hyco-ws');
const [gateway, keyName, keyFile, scenario, argument] = process.argv.slice(2);
const key = readFileSync(keyFile, 'utf8');
const { host, hostname } = new URL(gateway);

// The package's own helpers insist on port 443; all else takes any address.
const address = (path, action, query = '') => `wss://${host}/$hc/${path}?sb-hc-action=${action}${query}`;
const token = (path, seconds) => hyco.createRelayToken(`http://${hostname}/${path}`, keyName, key, seconds);

// listen opens a listener and resolves once it is registered. Close it, or it connects
// again for ever.
async function listen(path, onConnection, options = {}) {
  const server = hyco.createRelayedServer({ server: address(path, 'listen'), token: token(path), ...options }, onConnection);
  server.on('error', () => {}); // it connects again by itself
  await once(server, 'listening');
  return server;
}

// echo sends back what comes.
const echo = (socket) => {
  socket.on('message', (data, flags) => socket.send(data, { binary: flags.binary === true }));
  socket.on('error', () => {});
};

// connect opens a sender. A failed handshake rejects with an error that has the status.
function connect(path, { query = '', protocols = [], headers = {} } = {}) {
  return new Promise((resolve, reject) => {
    const socket = new hyco(address(path, 'connect', query), protocols, { headers: { ServiceBusAuthorization: token(path), ...headers } });
    socket.on('open', () => resolve(socket));
    socket.on('error', reject);
    socket.on('unexpected-response', (request, answer) => {
      reject(Object.assign(new Error(`unexpected-response ${answer.statusCode}`), { status: answer.statusCode, reason: answer.statusMessage }));
      request.abort();
    });
  });
}

// next is the next message of a socket.
const next = (socket) => new Promise((resolve, reject) => {
  socket.once('message', (data, flags) => resolve({ data, binary: flags.binary === true }));
  socket.once('close', (code) => reject(new Error(`closed with ${code}`)));
});

// closed is how a socket closes.
const closed = (socket) => new Promise((resolve) => {
  socket.once('close', (code, reason) => resolve({ code, reason: String(reason) }));
});

// until waits for a condition, with a deadline.
async function until(what, condition) {
  for (const deadline = Date.now() + 60_000; !(await condition()); await pause(20)) {
    assert.ok(Date.now() < deadline, `${what}: not in time`);
  }
}

const sum = (data) => createHash('sha256').update(data).digest('hex');

// channel opens a control channel by hand and hands out its accept messages.
async function channel(path) {
  const control = new WebSocket(address(path, 'listen'), { headers: { ServiceBusAuthorization: token(path) } });
  const waiting = [];
  const messages = [];
  control.on('message', (data) => {
    const message = JSON.parse(data);
    waiting.length ? waiting.shift()(message) : messages.push(message);
  });
  await once(control, 'open');
  return {
    control,
    accept: async () => (messages.shift() ?? await new Promise((resolve) => waiting.push(resolve))).accept,
  };
}

const scenarios = {
  async echo() {
    await listen('hyco/echo', echo);
    const socket = await connect('hyco/echo');
    for (const text of ['hello', '', 'ß→𐍈']) {
      const answer = next(socket);
      socket.send(text);
      assert.deepEqual(await answer, { data: text, binary: false });
    }
    for (const size of [0, 1, 125, 126, 65535, 65536, 70000]) {
      const bytes = randomBytes(size);
      const answer = next(socket);
      socket.send(bytes, { binary: true });
      const { data, binary } = await answer;
      assert.ok(binary);
      assert.ok(bytes.equals(data));
    }
  },

  // The package's own helpers: the token in the address, and relayedConnect.
  async helpers() {
    const path = 'hyco/helpers';
    const at = (uri) => uri.replace(/:443\//, `:${new URL(gateway).port}/`);
    const listenUri = at(hyco.createRelayListenUri(hostname, path, token(path), '7f1f8a0e-9a0b-4b6e-8f64-2a57f5d0c111'));
    const server = hyco.createRelayedServer({ server: listenUri, token: () => hyco.createRelayToken(at(hyco.createRelayListenUri(hostname, path)), keyName, key) }, echo);
    await once(server, 'listening');
    const sendUri = at(hyco.createRelaySendUri(hostname, path));
    const socket = await new Promise((resolve, reject) => {
      hyco.relayedConnect(sendUri, hyco.createRelayToken(sendUri, keyName, key), resolve).on('error', reject);
    });
    let answer = next(socket);
    socket.send('by header');
    assert.equal((await answer).data, 'by header');
    // appendRelayToken on an address without a query writes "?null&sb-hc-token="
    const appended = hyco.appendRelayToken(`wss://${host}/$hc/${path}`, keyName, key);
    assert.match(appended, /\?null&sb-hc-token=/);
    const other = await new Promise((resolve, reject) => {
      hyco.relayedConnect(appended, null, resolve).on('error', reject);
    });
    answer = next(other);
    other.send('by query');
    assert.equal((await answer).data, 'by query');
    assert.ok(server.clients.some((client) => /\?null&sb-hc-action=accept&/.test(client.url)));
  },

  // Messages of 16 MiB, of both kinds, both ways.
  async large() {
    await listen('hyco/large', echo);
    const socket = await connect('hyco/large');
    const size = 16 << 20;
    const bytes = randomBytes(size);
    let answer = next(socket);
    socket.send(bytes, { binary: true });
    let { data, binary } = await answer;
    assert.ok(binary);
    assert.equal(data.length, size);
    assert.equal(sum(data), sum(bytes));
    const text = randomBytes(size / 2).toString('hex');
    answer = next(socket);
    socket.send(text);
    ({ data, binary } = await answer);
    assert.ok(!binary);
    assert.equal(sum(data), sum(text));
  },

  // A hundred senders at once, each with messages of its own.
  async senders() {
    await listen('hyco/senders', echo);
    await Promise.all(Array.from({ length: 100 }, async (_, i) => {
      const socket = await connect('hyco/senders');
      for (let n = 0; n < 10; n++) {
        const answer = next(socket);
        socket.send(`${i}: ${n}`);
        assert.equal((await answer).data, `${i}: ${n}`);
      }
      const end = closed(socket);
      socket.close(1000, 'done');
      assert.equal((await end).code, 1000);
    }));
  },

  // Two listeners of one name share the senders, about evenly.
  async share() {
    const served = [0, 0];
    for (const i of [0, 1]) {
      await listen('hyco/share', (socket) => {
        served[i]++;
        socket.on('open', () => socket.send(`from ${i}`));
      });
    }
    const senders = 60;
    for (let n = 0; n < senders; n++) {
      const socket = await connect('hyco/share');
      await next(socket);
      socket.close();
    }
    assert.equal(served[0] + served[1], senders);
    // 60 tosses of a coin: fewer than 10 of one side come once in ten million times
    assert.ok(Math.min(...served) >= 10, `the listeners served ${served}`);
  },

  // Headers, subprotocols, what follows the name, and the query.
  async headers() {
    const path = 'hyco/headers';
    const server = await listen(path, (socket) => {
      echo(socket);
      socket.on('open', () => socket.send(JSON.stringify({ url: socket.url, protocol: socket.protocol })));
    });
    const suffix = `${path}/a%20b/c`;
    const socket = new hyco(`wss://${host}/$hc/${suffix}?x=1&sb-hc-action=connect&y=%2F&z`, ['one', 'two'], {
      headers: { ServiceBusAuthorization: token(path), 'X-Own': 'value' },
    });
    const first = next(socket);
    await once(socket, 'open');
    assert.equal(socket.protocol, 'one');
    const seen = JSON.parse((await first).data);
    assert.equal(seen.protocol, 'one');
    assert.match(seen.url, new RegExp(`^wss://${host}/\\$hc/hyco/headers/a%20b/c\\?x=1&y=%2F&z&sb-hc-action=accept&sb-hc-id=`));
    assert.ok(!seen.url.includes('SharedAccessSignature'));
    server.close();

    // its handleProtocols chooses another than the first
    await until('the listener leaves', () => connect('hyco/headers').then((s) => s.close(), (e) => e.status === 404));
    await listen(path, echo, { handleProtocols: (offered, choose) => choose(true, offered[1]) });
    const other = await connect(path, { protocols: ['one', 'two'] });
    assert.equal(other.protocol, 'two');

    // what hyco-ws hides from its listeners, seen by one made by hand
    const { control, accept } = await channel('hyco/seen');
    const sending = connect('hyco/seen', { query: '&sb-hc-id=5c9d0b36-8f0e-4a63-9a44-1b0f1e2d3c4b', protocols: ['one', 'two'], headers: { 'X-Own': 'value' } });
    const offer = await accept();
    assert.equal(offer.id.slice(0, 36), '5c9d0b36-8f0e-4a63-9a44-1b0f1e2d3c4b');
    assert.equal(offer.connectHeaders['X-Own'], 'value');
    assert.equal(offer.connectHeaders['Sec-WebSocket-Protocol'], 'one,two');
    assert.ok(offer.connectHeaders['Sec-WebSocket-Key']);
    assert.equal(offer.connectHeaders.Host, host);
    assert.ok(!Object.keys(offer.connectHeaders).some((name) => /authorization/i.test(name)));
    assert.equal(offer.remoteEndpoint.address, '127.0.0.1');
    assert.ok(offer.remoteEndpoint.port > 0);
    const listener = new WebSocket(offer.address, ['two']);
    const sender = await sending;
    assert.equal(sender.protocol, 'two');
    listener.close();
    control.close();
  },

  // Close codes and reasons go both ways.
  async closes() {
    for (const [code, reason] of [[1000, 'done'], [1001, ''], [1008, 'policy'], [3000, 'ß'], [4999, 'x'.repeat(120)]]) {
      const path = `hyco/close${code}`;
      let listening;
      const connected = new Promise((resolve) => {
        listening = listen(path, (socket) => socket.on('open', () => resolve(socket)));
      });
      await listening;
      const [sender, listener] = await Promise.all([connect(path), connected]);
      const ends = [closed(sender), closed(listener)];
      sender.close(code, reason);
      assert.deepEqual(await ends[1], { code, reason }, 'at the listener');
      assert.equal((await ends[0]).code, code, 'the answer at the sender');
    }
    for (const [code, reason] of [[1000, 'bye'], [1011, 'fault'], [4000, '']]) {
      const path = `hyco/closed${code}`;
      await listen(path, (socket) => socket.on('open', () => socket.close(code, reason)));
      assert.deepEqual(await closed(await connect(path)), { code, reason }, 'at the sender');
    }
    // no code at all
    await listen('hyco/closednone', (socket) => socket.on('open', () => socket.close()));
    const { code } = await closed(await connect('hyco/closednone'));
    assert.ok(code === 1000 || code === 1005, `closed with ${code}`);
  },

  // A listener rejects; hyco-ws itself can't, so that this one is made by hand.
  async reject() {
    const { control, accept } = await channel('hyco/reject');
    for (const [status, description] of [[404, 'Not here'], [503, 'Full up & tired'], [418, '']]) {
      const sending = connect('hyco/reject').then(() => assert.fail('it was joined'), (error) => error);
      const { address } = await accept();
      const text = new URLSearchParams({ 'sb-hc-statusCode': status, 'sb-hc-statusDescription': description });
      const listener = new WebSocket(`${address}&${text}`);
      listener.on('error', () => {});
      const [, answer] = await once(listener, 'unexpected-response');
      assert.equal(answer.statusCode, 410);
      const refused = await sending;
      assert.equal(refused.status, status);
      assert.ok(refused.reason.startsWith(description), refused.reason);
      listener.terminate();
    }
    control.close();
  },

  // Who sends without a right, or to nobody, hears of it at once.
  async refusals() {
    await assert.rejects(connect('hyco/nobody'), { status: 404, reason: /There are no listeners connected for the endpoint\..* TrackingId:/ });
    const wrong = token('hyco/nobody').replace(/sig=[^&]*/, 'sig=AAAA');
    await assert.rejects(connect('hyco/nobody', { headers: { ServiceBusAuthorization: wrong } }), { status: 401 });
    await assert.rejects(connect('hyco/nobody', { headers: { ServiceBusAuthorization: token('hyco/other') } }), { status: 403 });
  },

  // A listener with a function for its token renews it: its control channel outlives
  // the first token. The package does that every hour; here its hour is short.
  async renewal() {
    const path = 'hyco/renewal';
    const life = 4; // seconds
    const { setInterval: real } = globalThis;
    globalThis.setInterval = (f, interval, ...rest) => real(f, interval === 3_600_000 ? 1500 : interval, ...rest);
    let made = 0;
    const server = hyco.createRelayedServer({
      server: address(path, 'listen'),
      token: () => { made++; return token(path, life); },
    }, echo);
    let opened = 0;
    let ended = 0;
    server.on('listening', () => opened++);
    server.on('error', () => ended++);
    await once(server, 'listening');
    const early = await connect(path);
    // longer than the life of a token, and its grace
    await until('renewals', () => made >= 7);
    assert.deepEqual({ opened, ended }, { opened: 1, ended: 0 });
    const answer = next(early);
    early.send('still here');
    assert.equal((await answer).data, 'still here');
    await connect(path);
    globalThis.setInterval = real;
    server.close();

    // one that does not renew is closed, and connects again with a new token
    let tokens = 0;
    const lazy = hyco.createRelayedServer({
      server: address('hyco/lazy', 'listen'),
      token: () => token('hyco/lazy', ++tokens === 1 ? 2 : 3600),
    }, echo);
    await once(lazy, 'listening');
    const outlives = await connect('hyco/lazy');
    const { code, reason } = await closed(lazy.controlChannel);
    assert.equal(code, 1008);
    assert.match(reason, /^token-expired/);
    await once(lazy, 'listening');
    assert.equal(tokens, 2);
    // what is joined outlives the control channel and its token
    const late = next(outlives);
    outlives.send('outlives');
    assert.equal((await late).data, 'outlives');
    await connect('hyco/lazy');
  },

  // A listener's process is killed in the middle of things, and started again.
  async restart() {
    const path = 'hyco/restart';
    const run = async () => {
      const child = spawn(process.execPath, [fileURLToPath(import.meta.url), gateway, keyName, keyFile, 'serve', path], { stdio: ['pipe', 'pipe', 'inherit'] });
      for await (const line of createInterface(child.stdout)) {
        assert.equal(line, 'listening');
        break;
      }
      return child;
    };
    let child = await run();
    const senders = await Promise.all(Array.from({ length: 10 }, () => connect(path)));
    for (const socket of senders) {
      const answer = next(socket);
      socket.send('before');
      assert.equal((await answer).data, 'before');
    }
    const ends = senders.map(closed);
    child.kill('SIGKILL');
    for (const { code } of await Promise.all(ends)) {
      assert.ok(code === 1011 || code === 1006, `closed with ${code}`);
    }
    await until('the listener is gone', () => connect(path).then(() => assert.fail('joined'), (e) => e.status === 404));
    child = await run();
    const socket = await connect(path);
    const answer = next(socket);
    socket.send('after');
    assert.equal((await answer).data, 'after');
    // and once more, with another one beside it
    const both = await run();
    child.kill('SIGKILL');
    await until('only the other is asked', async () => {
      try {
        const s = await connect(path);
        const again = next(s);
        s.send('again');
        return (await again).data === 'again';
      } catch {
        return false;
      }
    });
    both.kill('SIGKILL');
  },

  // The package connects again without delay when a handshake fails, for ever. The
  // gateway makes it wait; who is well again is back within two seconds, and whoever
  // shares its address and name gets in at once.
  async storm() {
    const path = 'hyco/storm';
    let well = false;
    const handshakes = Array(2).fill(0);
    const servers = handshakes.map((_, i) => {
      const server = hyco.createRelayedServer({
        server: address(path, 'listen'),
        token: () => { handshakes[i]++; return well ? token(path) : 'SharedAccessSignature nonsense'; },
      }, echo);
      server.on('error', () => {});
      return server;
    });
    const seconds = 10;
    await pause(seconds * 1000);
    const each = Math.max(...handshakes) / seconds;
    console.log(`${handshakes.reduce((sum, n) => sum + n) / seconds} handshakes a second of ${handshakes.length} listeners`);
    assert.ok(each > 0.2, 'they do not try any more');
    assert.ok(each <= 5, `${each} handshakes a second of one listener`);
    const began = Date.now();
    const other = await listen(path, echo);
    assert.ok(Date.now() - began < 2000, `a good listener of the same name was held up for ${Date.now() - began} ms`);
    other.close();
    well = true;
    const healed = Date.now();
    await Promise.all(servers.map((server) => new Promise((resolve) => server.once('listening', resolve))));
    const took = Date.now() - healed;
    console.log(`all are back after ${took} ms`);
    assert.ok(took < 2000, `the listeners were back after ${took} ms`);
    await connect(path);
  },

  // serve echoes on a path until it is killed.
  async serve() {
    await listen(argument, echo);
    console.log('listening');
    process.stdin.resume();
    await once(process.stdin, 'end');
  },
};

const limit = setTimeout(() => {
  console.error(`${scenario} took too long`);
  process.exit(1);
}, 100_000);
await scenarios[scenario]();
clearTimeout(limit);
process.exit(0);
