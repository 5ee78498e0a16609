// Evaluates JavaScript with outrelay's client at hand, as a page would: each line of standard
// input is a JSON text of a script, each line of standard output what its value, or the value of
// its promise, is. An unhandled rejection ends it.
//
// Usage: node host.mjs [ws | proxy]   (with the sockets of the npm package ws, or with these
// through the proxy that HTTPS_PROXY names)
import { createInterface } from 'node:readline';
import tls from 'node:tls';
import { HttpsProxyAgent } from 'https-proxy-agent';
import { WebSocket } from 'ws';
import * as outrelay from '../../../subscriber/js/outrelay.js';

globalThis.outrelay = outrelay;
class Proxied extends WebSocket {
  constructor(url, protocols) {
    // The agent forgets whose certificate is wanted where that is no name but an address.
    const checkServerIdentity = (_, certificate) => tls.checkServerIdentity(new URL(url).hostname, certificate);
    super(url, protocols, { agent: new HttpsProxyAgent(process.env.HTTPS_PROXY), checkServerIdentity });
  }
}
globalThis.given = { ws: { WebSocket }, proxy: { WebSocket: Proxied } }[process.argv[2]] ?? {};
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { value: await (0, eval)(JSON.parse(line)) };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}
