// Microsoft's package hyco-https serves HTTP requests that come through the relay.
//
// Usage: node hyco-https.mjs GATEWAY KEYNAME KEYFILE PATH WHO
//
// It prints "listening" each time that it is, and ends with the process.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const https = createRequire(import.meta.url)('hyco-https');
const [gateway, keyName, keyFile, path, who] = process.argv.slice(2);
const key = readFileSync(keyFile, 'utf8');
const { host, hostname } = new URL(gateway);

const server = https.createRelayedServer({
  // The package's helper for this address insists on port 443; any other is taken.
  server: `wss://${host}/$hc/${path}?sb-hc-action=listen&sb-hc-id=${who}`,
  token: () => https.createRelayToken(https.createRelayHttpsUri(hostname, path), keyName, key),
}, (request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => answer(request, Buffer.concat(chunks), response));
});
server.on('listening', () => console.log('listening'));
server.on('error', () => {}); // it connects again by itself
server.listen();

const sha256 = (data) => createHash('sha256').update(data).digest('hex');

// held are answers that wait for the request that ends them.
const held = new Map();

function answer(request, body, response) {
  const url = new URL(request.url, 'http://relay.invalid');
  const parameter = (name) => url.searchParams.get(name);
  switch (url.pathname.slice(path.length + 1)) {
    case '/big': { // so many bytes in one piece
      const data = Buffer.alloc(Number(parameter('n')), 'outrelay ');
      response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'X-SHA256': sha256(data) });
      response.end(data);
      return;
    }
    case '/pieces': { // the same in many
      response.writeHead(200, { 'Content-Type': 'application/octet-stream' });
      const data = Buffer.alloc(10_000, 'pieces ');
      for (let n = Number(parameter('n')); n > 0; n -= data.length) response.write(data.subarray(0, n));
      response.end();
      return;
    }
    case '/hold': { // begins, and ends when it is told to
      response.write(Buffer.alloc(100_000, 'a'));
      held.set(parameter('id'), response);
      return;
    }
    case '/release':
      held.get(parameter('id')).end('the end');
      response.end('released');
      return;
    case '/status':
      response.statusCode = Number(parameter('code'));
      if (parameter('reason')) response.statusMessage = parameter('reason');
      response.setHeader('X-Number', 12);
      response.setHeader('X-Truth', true);
      response.setHeader('Set-Cookie', 'a=1; Path=/, b=2');
      response.end();
      return;
    case '/never':
      console.log('never');
      return;
    default:
      response.setHeader('Content-Type', 'application/json');
      response.end(JSON.stringify({
        who, method: request.method, url: request.url, headers: request.headers, length: body.length, sha256: sha256(body),
      }));
  }
}
