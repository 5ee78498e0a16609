// outrelay's client for browsers and Node 20 or newer. outrelay.d.ts says what it
// promises, README.md how it is used; the wire is schemas/protocol.md, section 5.

const answerTime = 20_000; // ms that a gateway, or whoever makes tokens, may take
const settled = 10_000; // ms after which a connection counts as a success
const quiet = 30_000; // ms of silence after which the client asks whether anybody is there

export class OutrelayError extends Error {
  name = 'OutrelayError';
  constructor(message, more) {
    super(message);
    Object.assign(this, more);
  }
}

export const session = (url, options) => start(locate(url), options);

export function subscribe(url, options = {}) {
  const at = locate(url);
  const alone = start(at, { ...options, onState: undefined }, true);
  return alone.subscribe(at.topic, { ...at.query, ...options });
}

export async function publish(url, events, { token } = {}) {
  const { base, topic } = locate(url);
  const body = JSON.stringify(complete(events));
  const kind = `application/cloudevents${Array.isArray(events) ? '-batch' : ''}+json`;
  for (let refused; ;) {
    const bearer = await ask(token, refused);
    const answer = await fetch(`${base}/topics/${topic}`, { method: 'POST', headers: { 'Content-Type': kind, ...bear(bearer) }, body });
    if (answer.ok) return answer.json();
    const error = await refusal(answer);
    if (error.status !== 401 || typeof token !== 'function' || refused !== undefined) throw error;
    refused = bearer;
  }
}

function locate(url) {
  const u = new URL(url, globalThis.location?.href);
  if (!/^(http|ws)s?:$/.test(u.protocol)) throw new TypeError('no address of a gateway');
  const [, prefix, topic] = /^(.*?)\/*(?:\/topics\/(.*))?$/.exec(u.pathname);
  return { base: u.protocol.replace('ws', 'http') + '//' + u.host + prefix, topic, query: Object.fromEntries(u.searchParams) };
}

const random = (n) => crypto.getRandomValues(new Uint8Array(n));
const nonce = () => btoa(String.fromCharCode(...random(16)));

// complete gives events what they lack; an id, so that sending one twice is no harm.
function complete(events) {
  if (Array.isArray(events)) return events.map(complete);
  return { specversion: '1.0', id: nonce(), ...events };
}

const bear = (token) => token ? { Authorization: (token.startsWith('SharedAccessSignature ') ? '' : 'Bearer ') + token } : {};

// ask gets a token from the program, whose own fault it must not be to wait for ever.
async function ask(token, refused) {
  if (typeof token !== 'function') return token;
  let timer;
  try {
    return await Promise.race([token(refused), new Promise((_, reject) => { timer = setTimeout(reject, answerTime); })]);
  } catch (cause) { // which may be anything
    throw new OutrelayError('no token came', { cause });
  } finally {
    clearTimeout(timer);
  }
}

// expiry is when a token says that it ends, in ms: se of a shared access signature,
// exp of a JWT; NaN if it says nothing.
function expiry(token) {
  try {
    const claims = () => JSON.parse(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')));
    return 1000 * (/[ &]se=(\d+)/.exec(token)?.[1] ?? claims().exp);
  } catch {
    return NaN;
  }
}

async function refusal(answer) {
  const text = await answer.text();
  const { status } = answer;
  const wait = answer.headers.get('Retry-After');
  const retryAfter = 1000 * wait || Math.max(0, Date.parse(wait) - Date.now()) || 0;
  if (/problem\+json/.test(answer.headers.get('Content-Type'))) return problemError(JSON.parse(text), { retryAfter });
  return new OutrelayError(`HTTP ${status}, not from the gateway`, { status, retryAfter });
}

const problemError = (problem, more) =>
  new OutrelayError(String(problem.detail ?? problem.title), { status: problem.status, problem, ...more });

// closeError puts a close of the gateway into the words of the contract (section 4).
function closeError(code, reason) {
  const retry = /^done\b/.test(reason) ? 'never' : code === 1008 ? 'token'
    : code === 1001 || code === 1006 || /^(silent|slow)\b/.test(reason) ? 'now' : 'later';
  return new OutrelayError(code === 1006 ? 'the connection was lost' : `closed by the gateway: ${code} ${reason}`, { code, reason, retry });
}

const closed = () => new OutrelayError('it is closed');

const passing = ({ status }) => !status || status >= 500 || status === 429 || status === 408;

// Full jitter: so that clients cut off together come back apart. The first ten tries
// wait up to a second, so that all come at one rate while a gateway starts again.
const jitter = (tries) => Math.random() * Math.min(30_000, 1000 * 1.5 ** Math.max(0, tries - 9));

// call runs a handler of the program at once. What it throws is an unhandled
// rejection of the program's, and no end of the connection.
const call = async (handler, ...what) => handler?.(...what);

function start({ base }, options = {}, alone) {
  const { token, onState, signal } = options;
  const WebSocket = options.WebSocket ?? globalThis.WebSocket ?? NodeWebSocket;
  const page = globalThis.document;
  const life = new AbortController();
  const listen = (target, type, f) => target?.addEventListener?.(type, f, { signal: life.signal });
  const channels = new Set();
  const open = new Map(); // channels by the id that they have on this connection
  const requests = new Map(); // that wait for an answer, by id
  let ids = 0;
  let socket;
  let welcomed = 0; // when; 0 while there is no session
  let known = false; // there was one
  let tried = false; // a socket did not open; ask over HTTP why, in place of a try
  let attempts = 0;
  let later = 0;
  let heard = 0;
  let resume = 0; // when a gateway wants to see its clients again
  let earliest = 0; // no try before
  let round = 0; // of trying; what belongs to one that is over changes nothing
  let bearer;
  let refused; // {token, at, why}: the one that was refused last
  let ended = false;
  let state;
  let timer, deadline, watch, drain, renewal, pinging;

  function tell(phase, why, wait) {
    state = { phase, since: state?.phase === phase ? state.since : Date.now(), why, attempt: attempts, wait };
    call(onState, state);
    if (phase !== 'connected') for (const c of channels) c.down(state);
  }

  const send = (message) => { if (welcomed) socket.send(JSON.stringify(message)); };

  async function connect() {
    clearTimeout(timer);
    timer = undefined;
    const own = ++round;
    const probe = tried;
    try {
      const fresh = await ask(token, refused?.token);
      if (own !== round) return;
      bearer = fresh;
      // Not once its time is over, and now and then before: the gateway's keys may change.
      if (bearer && bearer === refused?.token && (Date.now() >= expiry(bearer) || Date.now() - refused.at < 30_000)) {
        throw new OutrelayError('the token is the one that was refused', { cause: refused.why });
      }
      if (probe) {
        tried = false; // if nobody answers the next try is a socket again: HTTP may be what does not pass
        const answer = await fetch(`${base}/connect`, { headers: bear(bearer), redirect: 'error', signal: AbortSignal.timeout(answerTime) });
        const error = await refusal(answer);
        if (own !== round) return;
        if (answer.status !== 426) throw error;
      }
      const protocols = ['outrelay.v1.json'];
      if (bearer) protocols.push(`outrelay.bearer.${btoa(bearer).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')}`);
      socket = new WebSocket(base.replace('http', 'ws') + '/connect', protocols);
    } catch (error) {
      if (own === round) lost(error);
      return;
    }
    const mine = socket;
    mine.onmessage = ({ data }) => {
      if (mine !== socket) return;
      heard = Date.now();
      try {
        if (typeof data !== 'string') throw new TypeError('it is no text');
        take(JSON.parse(data));
      } catch (cause) {
        cut(new OutrelayError('a message can not be read', { retry: 'later', cause }));
      }
    };
    mine.onclose = ({ code, reason }) => {
      if (mine === socket) cut(probe && !welcomed ? new OutrelayError('HTTP passes, WebSockets do not') : closeError(code, reason));
    };
    mine.onerror = () => mine.onclose({ code: 1006, reason: '' }); // in Node 20 no close follows
    deadline = setTimeout(() => cut(new OutrelayError('the gateway did not answer')), answerTime);
  }

  // cut leaves a socket, whatever becomes of it.
  function cut(why) {
    const old = socket;
    lost(why);
    old?.close();
  }

  function lost(why) {
    round++;
    if (welcomed && Date.now() - welcomed > settled) attempts = 0;
    tried = !welcomed && socket !== undefined;
    socket = undefined;
    welcomed = 0;
    open.clear();
    for (const t of [timer, deadline, drain, renewal, pinging]) clearTimeout(t);
    clearInterval(watch);
    for (const [id, r] of requests) {
      if (r.message.op === 'publish') continue;
      requests.delete(id);
      r.reject(why);
    }
    if (ended) return;
    const { status, retry } = why;
    if (status === 401 || /^token-expired/.test(why.reason)) refused = { token: bearer, at: Date.now(), why };
    const renewable = typeof token === 'function' && (status === 401 || retry === 'token');
    if (retry === 'never' || !renewable && (retry === 'token' || !passing(why) && (why.problem || !known))) return end(why);
    later = retry === 'later' ? later + 1 : 0; // whatever it brought before
    attempts = Math.max(attempts, later);
    const told = why.retryAfter || 0;
    let wait = told + jitter(attempts);
    if (resume) wait = Math.max(0, resume - Date.now());
    else if (tried && !known && !attempts) wait = 0; // soon known what is wrong
    earliest = Date.now() + (resume ? wait : told);
    resume = 0;
    attempts++;
    timer = setTimeout(connect, wait);
    tell(known ? 'reconnecting' : 'connecting', why, wait);
  }

  function take(m) {
    if (typeof m.op !== 'string') throw new TypeError('it has no op');
    const channel = open.get(m.id);
    const request = requests.get(m.id);
    if (channel) {
      if (m.op === 'event' || m.op === 'position') attempts = 0;
      channel.take(m);
    } else if (m.op === 'welcome') {
      clearTimeout(deadline);
      welcomed = Date.now();
      known = true;
      refused = undefined;
      watch = setInterval(() => Date.now() - heard > quiet && ping(), quiet / 2);
      tell('connected');
      for (const c of channels) c.open();
      for (const r of requests.values()) send(r.message);
      renew(Date.parse(m.tokenexpires));
    } else if (m.op === 'draining' && !resume) {
      const told = Math.min(Number(m.reconnectafterms) || 0, 600_000);
      const wait = told + Math.random() * told;
      resume = Date.now() + wait;
      drain = setTimeout(() => cut(closeError(1001, 'drain')), wait);
    } else if (request && /^(published|ok|error)$/.test(m.op)) {
      requests.delete(m.id);
      const { op, id, ...answer } = m;
      if (op === 'error') request.reject(problemError(m.problem));
      else request.resolve(answer);
    }
  }

  function request(message) {
    return new Promise((resolve, reject) => {
      if (ended) throw closed();
      if (requests.size > 999) throw new OutrelayError('too many requests wait');
      const id = String(++ids);
      message = { op: message.op, id, ...message };
      requests.set(id, { message, resolve, reject });
      send(message);
    });
  }

  function ping() {
    const own = round;
    const at = Date.now();
    send({ op: 'ping', id: String(++ids) });
    clearTimeout(pinging);
    pinging = setTimeout(() => own === round && heard < at && cut(closeError(1011, 'silent')), settled);
  }

  // renew gets a new token when three quarters of the time are over.
  function renew(expires) {
    if (!welcomed || typeof token !== 'function' || !(expires > 0)) return;
    const own = round;
    renewal = setTimeout(async () => {
      let next = expires;
      try {
        const fresh = await ask(token);
        if (own !== round) return;
        if (fresh && fresh !== bearer) {
          await request({ op: 'token', token: fresh });
          bearer = fresh;
          next = expiry(fresh) || Date.now() + 3_600_000;
        }
      } catch { /* the session goes on until the old one ends, and asks again */ }
      if (own === round) renew(next);
    }, Math.min(Math.max((expires - Date.now()) * 0.75, 1000), 2 ** 31 - 1));
  }

  // wake is for when the network may be another one, or somebody looks again.
  function wake() {
    if (page?.visibilityState === 'hidden') return;
    if (welcomed) ping();
    else if (timer && Date.now() >= earliest) connect();
  }

  function end(why) {
    if (ended) return;
    ended = true;
    const old = socket;
    lost(why ?? closed());
    old?.close(1000, 'done');
    life.abort();
    for (const r of requests.values()) r.reject(why ?? closed());
    requests.clear();
    for (const c of channels) c.end(why);
    tell('ended', why);
  }

  const close = () => end();

  function channel(topic, o = {}) {
    const { onEvent, onState: onChange, signal: over, queue: most = 256, token: _, WebSocket: __, ...wire } = o;
    const durable = o.subscription !== undefined;
    const onGap = o.onGap ?? (onEvent && ((gap) => console.warn('outrelay: events are missing', gap)));
    let id;
    let stands = false; // the gateway has opened it
    let was = false; // once
    let paused = false;
    let place = o.after; // what was received goes up to here
    let cursor = place; // what was handed out
    let queue = [];
    let waiters = [];
    let settling = []; // settlements without an answer, in order
    let sent = 0; // so many of them are on the wire
    let tries = 0;
    let again;
    let done = false;
    let failure;
    let now;

    const change = (s) => call(onChange, now = s);
    const kick = () => waiters.splice(0).forEach((w) => w());

    function flush() {
      while (stands && sent < settling.length) {
        const { op, tag, more } = settling[sent++];
        send({ op, id, deliveries: [tag], ...more });
      }
    }

    function settle(op, tag, more) {
      const p = new Promise((resolve, reject) => {
        if (done) throw closed();
        settling.push({ op, tag, more, resolve, reject });
        flush();
      });
      p.catch(() => {}); // who does not wait for it need not care
      return p;
    }

    const delivery = ({ event, delivery: tag, attempt }) => ({
      event, attempt, tag,
      ack: () => settle('ack', tag),
      release: (delay) => settle('release', tag, { delay }),
      reject: (reason) => settle('reject', tag, { reason }),
      extend: () => settle('extend', tag),
    });

    function moved(to) {
      if (!to) return;
      place = to;
      if (queue.length) queue.at(-1).cursor = to;
      else cursor = to;
    }

    function put(item) {
      queue.push(item);
      kick();
      if (durable || paused || queue.length < most) return;
      // A socket of a page can't be told to wait. What does not fit comes again.
      paused = true;
      stands = false;
      open.delete(id);
      send({ op: 'unsubscribe', id });
    }

    const self = {
      open() {
        if (done || paused || !welcomed) return;
        id = String(++ids);
        open.set(id, self);
        send({ topic, ...wire, op: 'subscribe', id, after: durable ? o.after : place });
      },
      take(m) {
        switch (m.op) {
          case 'subscribed':
            stands = was = true;
            // From "last", the place before the last events would bring others too.
            if (!durable && !place && o.from !== 'last') moved(m.cursor);
            if (now?.phase !== 'connected') change({ phase: 'connected', since: Date.now(), attempt: 0 });
            return flush();
          case 'event':
            tries = 0;
            if (typeof m.event.id !== 'string') throw new TypeError('it is no event');
            put({ value: durable ? delivery(m) : m.event });
            return durable || moved(m.event.relaycursor);
          case 'position':
            return moved(m.cursor);
          case 'gap':
            return put({ gap: { reason: m.reason, missed: m.missed } });
          case 'ok':
          case 'error':
            if (stands && !m.reason) {
              const s = settling.shift();
              sent--;
              if (m.op === 'ok') s.resolve(!m.unknown?.includes(s.tag));
              else s.reject(problemError(m.problem));
              return;
            }
            failed(problemError(m.problem, { reason: m.reason }));
        }
      },
      // down is for when the connection is lost.
      down(s) {
        stands = false;
        sent = 0;
        clearTimeout(again);
        if (durable) queue = []; // it comes again
        change({ ...s, phase: was || s.phase === 'ended' ? s.phase : 'connecting' });
      },
      end(why) {
        if (done) return;
        done = true;
        failure = why;
        if (!why) queue = [];
        clearTimeout(again);
        over?.removeEventListener('abort', shut);
        if (id) {
          open.delete(id);
          send({ op: 'unsubscribe', id });
        }
        for (const s of settling) s.reject(why ?? closed());
        settling = [];
        kick();
        channels.delete(self);
        change({ phase: 'ended', since: Date.now(), why, attempt: tries });
        if (alone) end(why);
      },
    };

    // failed is for when the gateway refuses or ends it, but not the session.
    function failed(why) {
      open.delete(id);
      self.down({ phase: 'reconnecting', since: Date.now(), why, attempt: ++tries });
      if (passing(why)) again = setTimeout(self.open, jitter(tries));
      else self.end(why);
    }

    const shut = () => self.end();

    async function next() {
      for (;;) {
        const item = queue.shift();
        if (item) {
          if (paused && queue.length <= most / 2) {
            paused = false;
            self.open();
          }
          cursor = item.cursor ?? cursor;
          if (!item.gap) return { done: false, value: item.value };
          if (!onGap) throw new OutrelayError(`events are missing here: ${item.gap.reason}`, { gap: item.gap });
          call(onGap, item.gap);
        } else if (!done) {
          await new Promise((resolve) => waiters.push(resolve));
        } else {
          if (failure) throw failure;
          return { done: true, value: undefined };
        }
      }
    }

    const stream = {
      get state() { return now; },
      get cursor() { return cursor; },
      close: shut,
      next,
      async return() {
        shut();
        return { done: true, value: undefined };
      },
      [Symbol.asyncIterator]: () => stream,
    };

    async function handle() {
      try {
        for await (const e of stream) {
          try {
            await onEvent(e);
          } catch (error) {
            Promise.reject(error); // as that of any other handler
          }
        }
      } catch (error) {
        if (!onChange) throw error;
      }
    }

    if (ended) throw closed();
    channels.add(self);
    over?.addEventListener('abort', shut);
    change(state);
    if (over?.aborted) shut();
    else if (onEvent) handle();
    self.open();
    return stream;
  }

  listen(globalThis, 'online', wake);
  listen(globalThis, 'offline', wake);
  listen(page, 'visibilitychange', wake);
  listen(signal, 'abort', close);
  tell('connecting');
  if (signal?.aborted) close();
  else connect();
  return {
    get state() { return state; },
    subscribe: channel,
    publish: (topic, events) => request({ op: 'publish', topic, [Array.isArray(events) ? 'events' : 'event']: complete(events) }),
    close,
  };
}

// Node before 22 has no WebSocket. This is as much of RFC 6455 as a session needs.
function NodeWebSocket(url, protocols) {
  let wire;
  let open;
  let over;
  let rest;
  let parts = [];
  let size = 0;
  let kind;

  // end says goodbye where there is somebody to hear it, and waits for no answer.
  const end = (code, reason) => {
    if (over) return;
    if (open && code !== 1006) {
      frame(8, code === 1005 ? [] : [code >> 8, code & 255, ...Buffer.from(reason)]);
      wire.end();
      setTimeout(() => wire.destroy(), 1000).unref();
    } else wire?.destroy();
    over = true;
    this.onclose({ code, reason });
  };
  const lost = () => end(1006, '');

  function frame(op, body) {
    const mask = random(4);
    const n = body.length;
    const long = n < 126 ? [n | 128] : n < 65536 ? [254, n >> 8, n] : [255, 0, 0, 0, 0, n >> 24, n >> 16, n >> 8, n];
    wire.write(Buffer.concat([Buffer.from([op | 128, ...long, ...mask]), Buffer.from(body).map((b, i) => b ^ mask[i & 3])]));
  }

  const read = (chunk) => {
    rest = Buffer.concat([rest, chunk]);
    while (rest.length > 1 && !over) {
      const op = rest[0] & 15;
      let length = rest[1] & 127;
      const from = length === 127 ? 10 : length === 126 ? 4 : 2;
      if (rest.length < from) return;
      if (from === 4) length = rest.readUInt16BE(2);
      if (from === 10) length = Number(rest.readBigUInt64BE(2));
      // No extension, no mask, and nothing longer than a session's longest message.
      if (rest[0] & 112 || rest[1] & 128 || size + length > 9 << 20) return end(1002, '');
      if (rest.length < from + length) return;
      const body = rest.subarray(from, from + length);
      const last = rest[0] & 128;
      rest = rest.subarray(from + length);
      if (op === 8) end(length > 1 ? body.readUInt16BE() : 1005, body.toString('utf8', 2));
      if (op === 9) frame(10, body);
      if (op > 2) continue;
      kind = op || kind;
      size += length;
      parts.push(body);
      if (!last) continue;
      const all = Buffer.concat(parts);
      parts = [];
      size = 0;
      this.onmessage({ data: kind === 1 ? all.toString() : all });
    }
  };

  const connect = async () => {
    const http = await import(url.startsWith('wss') ? 'node:https' : 'node:http');
    const { createHash } = await import('node:crypto');
    if (over) return;
    const key = nonce();
    const accept = createHash('sha1').update(key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
    wire = http.get(url.replace('ws', 'http'), { agent: false, headers: {
      Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': 13, 'Sec-WebSocket-Key': key, 'Sec-WebSocket-Protocol': protocols.join(', '),
    } }).on('error', lost).on('response', lost).on('upgrade', ({ headers }, socket, head) => {
      wire = socket.on('error', lost).on('close', lost).on('data', read).setNoDelay();
      if (over || headers['sec-websocket-accept'] !== accept || headers['sec-websocket-protocol'] !== protocols[0]) return lost();
      open = true;
      rest = head;
      read(Buffer.alloc(0));
    });
  };

  this.send = (text) => frame(1, Buffer.from(text));
  this.close = (code = 1000, reason = '') => end(code, reason);
  connect().catch(lost);
}
