// Uses all that outrelay.d.ts declares, as strict TypeScript, and runs against a gateway.
import { argv } from 'node:process';
import {
  OutrelayError, publish, session, subscribe,
  type CloudEvent, type Delivery, type Filter, type Gap, type NewEvent, type Problem, type Receipt, type Session,
  type SessionOptions, type State, type Stream, type StreamOptions, type Subscription, type SubscriptionOptions, type Token,
  type WebSocketLike,
} from 'outrelay';

interface Order { total: number }

const gateway: string = argv[2]!;
const token: Token = async (refused?: string) => (refused === undefined ? undefined : undefined);
const states: State[] = [];
const options: SessionOptions = { token, signal: new AbortController().signal, onState: (s) => states.push(s) };
const s: Session = session(new URL(gateway), options);

const order: NewEvent<Order> = { source: '/types', type: 'order.paid', data: { total: 7 }, tenant: 'north' };
const one: Receipt = await publish(`${gateway}/topics/types/orders`, order, { token });
const two: Receipt = await s.publish('types/orders', [order, { id: '3', source: '/types', type: 'order.sent' }]);
const [n, cursor, duplicates]: [number, string | undefined, number[] | undefined] = [one.accepted + two.accepted, two.cursor, two.duplicates];

const filter: Filter = { all: [{ exact: { type: 'order.paid' } }, { not: { prefix: { id: 'x' } } }] };
const streamed: StreamOptions<Order> = { from: 'earliest', filter: [filter], sql: 'TRUE', slow: 'gap', queue: 10, onGap: (gap: Gap) => void [gap.reason, gap.missed] };
const stream: Stream<Order> = s.subscribe<Order>('types/*', streamed);
let total = 0;
for await (const event of stream) {
  const e: CloudEvent<Order> = event;
  total += e.data?.total ?? 0;
  if (total === 14) break;
}
const place: string | undefined = stream.cursor;
const phase: 'connecting' | 'connected' | 'reconnecting' | 'ended' = stream.state.phase;

const durable: SubscriptionOptions<Order> = {
  subscription: 'types', from: 'earliest', credit: 2, ackwait: '30s', maxdeliver: 3, deadletter: 'dead/types', exclusive: false, expires: '1h',
  onState: (state: State) => void [state.since, state.why?.message, state.attempt, state.wait],
};
const work: Subscription<Order> = subscribe<Order>(`${gateway}/topics/types/*`, durable);
const settled: boolean[] = [];
for await (const d of work) {
  const delivery: Delivery<Order> = d;
  settled.push(await delivery.extend());
  if (delivery.event.id === '3') settled.push(await delivery.reject('of no use'));
  else if (delivery.attempt === 1) settled.push(await delivery.release('10ms'));
  else settled.push(await delivery.ack());
  if (settled.length === 10) break;
}

let problem: Problem | undefined;
try {
  for await (const _ of subscribe(gateway, { topic: 'types/***', onState: () => {} })) break;
} catch (error) {
  if (error instanceof OutrelayError) problem = error.problem;
}
const known: OutrelayError = new OutrelayError('mine', { status: 400, retry: 'later' });
const like = (socket: WebSocketLike): void => socket.close(1000, 'done');
s.close();
console.log(JSON.stringify({ n, stored: cursor !== undefined, duplicates, total, place: place !== undefined, phase, settled, problem: problem?.status, known: known.status, like: typeof like, states: states.map((x) => x.phase) }));
