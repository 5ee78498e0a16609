// Each marked line is a mistake that the types must find; no other is.
import { OutrelayError, publish, session, subscribe } from 'outrelay';
import { nothing } from 'outrelay'; // wrong

const s = session(42); // wrong
s.subscribe('a', { from: 7 }); // wrong
s.subscribe('a', { filter: { exactly: { type: 'x' } } }); // wrong
s.subscribe('a', { queue: '10' }); // wrong
s.subscribe('a', { subscription: 'work', queue: 10 }); // wrong
s.subscribe(undefined, {}); // wrong
s.subscribe(undefined, { subscription: 'work' });
s.publish('a', { type: 'no source' }); // wrong
publish('a', { source: '/s', type: 't', specversion: '0.3' }); // wrong
subscribe('a', { token: 5 }); // wrong
subscribe('a', { onEvent: (event) => event.ack() }); // wrong
subscribe('a', { subscription: 'work', onEvent: (delivery) => delivery.ack() });
for await (const event of subscribe<{ total: number }>('a')) {
  event.data.total; // wrong
  event.data?.total;
  event.data?.sum; // wrong
}
for await (const delivery of subscribe('a', { subscription: 'work' })) {
  delivery.id; // wrong
  delivery.release(5); // wrong
  (await delivery.ack()).valueOf();
}
subscribe('a').cursor.length; // wrong
new OutrelayError('x').status = 5; // wrong
s.state.phase === 'lost'; // wrong
