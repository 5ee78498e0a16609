// Evaluates JavaScript with outrelay's client at hand, as a page would: each line of standard
// input is a JSON text of a script, each line of standard output what its value, or the value of
// its promise, is. An unhandled rejection ends it.
//
// Usage: node host.mjs [ws]   (ws: with the sockets of the npm package of that name)
import { createInterface } from 'node:readline';
import * as outrelay from '../../../subscriber/js/outrelay.js';

globalThis.outrelay = outrelay;
globalThis.given = process.argv[2] === 'ws' ? { WebSocket: (await import('ws')).WebSocket } : {};
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { value: await (0, eval)(JSON.parse(line)) };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}
