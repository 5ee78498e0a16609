/**
 * A client of the outrelay event broker for browsers and Node 20 or newer: one module, no
 * dependencies. Everything goes over one WebSocket for each {@link session}, which connects
 * again by itself, with full jitter, and goes on after the last event that came.
 *
 * In Node 20, which has no WebSocket, the module brings what it needs of one; another can be
 * given as {@link SessionOptions.WebSocket}.
 *
 * Handlers run one after the other, in the order of what came. What a handler throws, or a promise
 * that it returns rejects with, is an unhandled rejection of the program's, and no end of the
 * connection: a page goes on with the next event, and Node ends the process unless told otherwise.
 */

/** A CloudEvent in the JSON event format, as the gateway delivers it. */
export interface CloudEvent<Data = unknown> {
  specversion: '1.0';
  id: string;
  source: string;
  type: string;
  subject?: string;
  time?: string;
  datacontenttype?: string;
  dataschema?: string;
  data?: Data;
  /** Data that is neither JSON nor text. */
  data_base64?: string;
  /** The topic that it was published to. */
  relaytopic: string;
  /** Its place in the log; not there where the topic is not stored. */
  relaycursor?: string;
  /** Extension attributes. */
  [attribute: string]: unknown;
}

/** An event to publish. `specversion` and a random `id` are added where they are not there. */
export interface NewEvent<Data = unknown> {
  id?: string;
  source: string;
  type: string;
  specversion?: '1.0';
  data?: Data;
  [attribute: string]: unknown;
}

/** What a publish was answered with, once every event is kept as the gateway promises. */
export interface Receipt {
  /** The number of events taken. */
  accepted: number;
  /** The place of the last; not there where nothing was stored. */
  cursor?: string;
  /** The indexes, from 0, of events that the gateway knew already. */
  duplicates?: number[];
}

/** Events that a stream will not get. */
export interface Gap {
  /** Reasons that are not known here are to be treated as the others. */
  reason: 'slow' | 'expired' | 'reset' | 'unstored' | (string & {});
  /** How many; null where that can't be known. */
  missed: number | null;
}

/** The truth about a connection. Times are in ms, as of `Date.now()`. */
export interface State {
  /** `connecting` is for the first time, `reconnecting` after a loss; nothing follows `ended`. */
  phase: 'connecting' | 'connected' | 'reconnecting' | 'ended';
  /** When the phase began. */
  since: number;
  /** What cut the connection, refused the last attempt or ended it all. */
  why?: Error;
  /** Attempts that failed since the last success. */
  attempt: number;
  /** ms until the next attempt. */
  wait?: number;
}

/**
 * What the gateway refused, or how it closed the connection. Which members are there depends on
 * that; with none of them the network, or a message that can't be read, was at fault.
 */
export declare class OutrelayError extends Error {
  constructor(message: string, more?: Partial<OutrelayError>);
  /** The HTTP status of a refusal. */
  readonly status?: number;
  /** The problem document (RFC 9457) of a refusal. Branch on the last part of its type. */
  readonly problem?: Problem;
  /** ms that the gateway asked to wait for. */
  readonly retryAfter?: number;
  /** The code of a Close frame, or 1006 without one. */
  readonly code?: number;
  /** The text of a Close frame, which begins with a word of protocol section 4. */
  readonly reason?: string;
  /** What the contract says about connecting again. */
  readonly retry?: 'now' | 'later' | 'token' | 'never';
  /** In an iteration without `onGap`: events are missing at this place. */
  readonly gap?: Gap;
}

export interface Problem {
  type: string;
  title: string;
  status: number;
  detail?: string;
  /** The event's place in its batch, from 0. */
  index?: number;
  attribute?: string;
}

/**
 * A token, or what makes one: it is called before each attempt to connect, with the token that
 * was refused last if there is one, and when three quarters of a token's time are over; a new
 * token then renews the session on its socket. It may take 20 s. A token that was refused is not
 * tried again before its keys may have changed (30 s), and never once it has expired; while the
 * function returns no other, the client waits. With a fixed token a refusal is the end.
 */
export type Token = string | ((refused?: string) => string | undefined | Promise<string | undefined>);

/** The part of the browser's WebSocket that is used. */
export interface WebSocketLike {
  onmessage: ((event: { data: any }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export interface SessionOptions {
  /** None by default: what everybody may do. */
  token?: Token;
  onState?: (state: State) => void;
  /** Closes it all. */
  signal?: AbortSignal;
  /**
   * The class to make sockets of, in place of the platform's. The npm package ws does, with its
   * agents for proxies.
   */
  WebSocket?: new (url: string, protocols: string[]) => any;
}

/** CloudEvents Subscriptions filters: `{ exact: { type: 'order.paid' } }` and its like. */
export type Filter =
  | { exact: Record<string, string> }
  | { prefix: Record<string, string> }
  | { suffix: Record<string, string> }
  | { all: Filter[] }
  | { any: Filter[] }
  | { not: Filter }
  | { sql: string };

interface Where {
  /** `latest` (the default), `earliest`, `last` or an RFC 3339 time. For the beginning only. */
  from?: 'latest' | 'earliest' | 'last' | (string & {});
  /** A cursor: begin with what comes next. Wins over `from`. */
  after?: string;
  /** One filter, or several of which all must hold, or either as JSON text. */
  filter?: Filter | Filter[] | string;
  /** A CloudEvents SQL expression. */
  sql?: string;
  /** Told each change. */
  onState?: (state: State) => void;
  /** Closes it. */
  signal?: AbortSignal;
}

export interface StreamOptions<Data = unknown> extends Where {
  /**
   * Called with each event. A promise that it returns is waited for before the next. Where the
   * gateway ends the stream and there is no `onState` to be told, that is an unhandled rejection.
   * Instead of it, the stream can be iterated.
   */
  onEvent?: (event: CloudEvent<Data>) => unknown;
  /**
   * Called at the place among the events where others are missing. Without it an iteration throws
   * an {@link OutrelayError} with a `gap`, after which a new loop goes on; `onEvent` goes on, and
   * the gap is a warning on the console.
   */
  onGap?: (gap: Gap) => void;
  /**
   * How many events wait for a slow consumer, 256 by default. A page can't tell its socket to
   * wait; so once as many wait, the stream is closed at the gateway, what comes beyond is dropped,
   * and when half of them are taken it is opened again after the last one kept. Nothing is lost of
   * what is stored; on a topic that is not stored, there is a gap `unstored`.
   */
  queue?: number;
  /** `gap` (the default) or `close`: what the gateway does when the stream falls behind. */
  slow?: 'gap' | 'close';
  subscription?: undefined;
}

/** Durations are texts such as "30s"; defaults and limits are in protocol section 5. */
export interface SubscriptionOptions<Data = unknown> extends Where {
  /** The name of the durable subscription, which is made if there is none and a topic is given. */
  subscription: string;
  /** At most so many deliveries are unsettled here, 64 by default; they bound what waits, too. */
  credit?: number;
  ackwait?: string;
  maxdeliver?: number;
  deadletter?: string;
  exclusive?: boolean;
  expires?: string;
  /** As in {@link StreamOptions}. It is to settle the delivery, then or later. */
  onEvent?: (delivery: Delivery<Data>) => unknown;
}

/**
 * An event that a durable subscription handed out, to be settled once. The promises say whether
 * the delivery was still held: false means that it was settled, or handed out again, before; an ack
 * that comes late counts. They wait for a connection if there is none, and reject once the
 * subscription is closed; who is not interested need not handle that.
 */
export interface Delivery<Data = unknown> {
  readonly event: CloudEvent<Data>;
  /** From 1. */
  readonly attempt: number;
  /** Names this delivery for the HTTP requests of protocol section 6. */
  readonly tag: string;
  /** It is done. */
  ack(): Promise<boolean>;
  /** Hand it out again, after a delay such as "5s", at most 15 minutes. */
  release(delay?: string): Promise<boolean>;
  /** To the dead-letter topic, with a reason of at most 512 bytes for people. */
  reject(reason?: string): Promise<boolean>;
  /** Its ack wait begins anew. */
  extend(): Promise<boolean>;
}

/**
 * What comes, one after the other. `for await` closes it when the loop is left by break, return or
 * throw. The iteration ends when it is closed, and throws when the gateway ends it: an
 * {@link OutrelayError}. It is for one loop at a time.
 */
interface Flow<Item> extends AsyncIterableIterator<Item, undefined, undefined> {
  readonly state: State;
  /** Closes it. What was not taken is dropped; a durable subscription stays. */
  close(): void;
  return(): Promise<IteratorReturnResult<undefined>>;
}

/** A live flow of a topic filter's events. */
export interface Stream<Data = unknown> extends Flow<CloudEvent<Data>> {
  /**
   * Another stream with `after` set to it begins with what was not handed out here yet. Undefined
   * while no place is known.
   */
  readonly cursor: string | undefined;
}

/**
 * A durable subscription that this program takes events of. What waits here when the connection is
 * lost is dropped, because it comes again; so does what is unsettled, with the next attempt.
 */
export interface Subscription<Data = unknown> extends Flow<Delivery<Data>> {}

export interface Session {
  readonly state: State;
  /** Opens a stream of a topic filter, over this session's socket. */
  subscribe<Data = unknown>(topic: string, options?: StreamOptions<Data>): Stream<Data>;
  /** Opens a durable subscription. One that exists needs no topic. */
  subscribe<Data = unknown>(topic: string | undefined, options: SubscriptionOptions<Data>): Subscription<Data>;
  /**
   * Publishes an event, or an array of which all or none is taken. It waits for a connection, and
   * what was not answered when one was lost is sent again; the gateway recognises copies on stored
   * topics. At most 1,000 wait. Rejects with the gateway's refusal, or once the session is closed.
   */
  publish(topic: string, events: NewEvent | NewEvent[]): Promise<Receipt>;
  /** Closes it and all that is open on it. What was sent before is still taken by the gateway. */
  close(): void;
}

/**
 * Opens a session at a gateway, such as `https://relay.example`. It begins to connect at once. A
 * path before the gateway's own is kept; `ws:` and `wss:` do as well; in a page the address may
 * be relative.
 */
export declare function session(url: string | URL, options?: SessionOptions): Session;

/** Where the address is that of a gateway alone. */
interface Named {
  /** The topic filter. */
  topic?: string;
}

/**
 * Opens a stream at an address such as `https://relay.example/topics/orders/**`, with a session of
 * its own. Stream parameters may stand in the query.
 */
export declare function subscribe<Data = unknown>(url: string | URL, options?: Named & SessionOptions & StreamOptions<Data>): Stream<Data>;
/** Opens a durable subscription, with a session of its own. One that exists needs no topic. */
export declare function subscribe<Data = unknown>(url: string | URL, options: Named & SessionOptions & SubscriptionOptions<Data>): Subscription<Data>;

/**
 * Publishes an event, or an array of which all or none is taken, with one HTTP request to an
 * address such as `https://relay.example/topics/orders/eu`. Rejects with an {@link OutrelayError}
 * for what the gateway refused, and with fetch's own error where it can't be reached. Events with
 * an `id` can be sent again without harm.
 */
export declare function publish(url: string | URL, events: NewEvent | NewEvent[], options?: { token?: Token }): Promise<Receipt>;
