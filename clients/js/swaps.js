// A client of the swap aggregator for browsers and Node 22 or newer: its WebSocket
// (docs/websocket.md), and sending swaps (docs/rest.md).
//
// One ES module without dependencies. Start with `SwapsClient`, or with `ingest`. The rest is pure and
// exported for its tests: cursors deduplicate messages, an inbox bounds the queue of a slow reader,
// the session decides what to send and when to reconnect. Times are ms.

export const SILENCE_MS = 3_000;
const RESTARTED_AFTER_MS = 10_000;
const PROVED_AFTER_MS = 10_000;
const RENEW_AGAIN_MS = 5_000;
const LEAST_RENEWAL_MS = 200;
const REQUEST_BYTES = 48_000;
const REQUEST_TOKENS = 200;
const CANDLES_KEPT = 300;
const AUTH_CODES = new Set([4001, 4003]);
const LIMIT_CODES = new Set([4008, 4029, 4403]);

/** The service no longer accepts this token (4001, 4003): create a client with another one. */
export class AuthRefused extends Error {
  constructor(closeCode, reason) {
    super(`${reason} (${closeCode}): give a token that is valid`);
    this.name = "AuthRefused";
    this.closeCode = closeCode;
    this.reason = reason;
  }
}

/**
 * The service closed or refused the connection; the client will retry. `code` is the service's, such
 * as "too_many_connections" or "origin_not_allowed".
 */
export class ConnectionRefused extends Error {
  constructor({ code, reason, close_code, retry_in_ms, attempts }) {
    super(`${code}: ${reason}`);
    this.name = "ConnectionRefused";
    Object.assign(this, { code, reason, close_code, retry_in_ms, attempts });
  }
}

/** The service refused a subscription, or one token of it. */
export class RequestRefused extends Error {
  constructor(code, message, token = null) {
    super(`${code}: ${message}`);
    this.name = "RequestRefused";
    this.code = code;
    this.token = token;
  }
}

// Exponential backoff with full jitter (M. Brooker, AWS, 2015); longer after a limit.
export function waitMs(backoff, attempt, draw, limited = false) {
  const bound = Math.min(backoff.longestMs, backoff.firstMs * 2 ** Math.min(attempt, 30));
  return draw * bound + (limited ? backoff.limitedMs : 0);
}

// A token bucket below the service's limit of 20 messages a second with bursts of 40.
export class TokenBucket {
  constructor(nowMs, rate = 15, burst = 20) {
    this.rate = rate;
    this.burst = burst;
    this.left = burst;
    this.at = nowMs;
  }

  take(nowMs) {
    const filled = this.left + ((nowMs - this.at) / 1_000) * this.rate;
    this.left = Math.min(this.burst, filled) - 1;
    this.at = nowMs;
    return Math.max(0, (-this.left / this.rate) * 1_000);
  }
}

// Cursors: the newest state of one topic that a reader has received.

const compare = (a, b) => a[0] - b[0] || a[1] - b[1];

class StatsCursor {
  last = null;
  gaveEmpty = false;

  take(message) {
    const snapshot = message.type === "snapshot";
    const { token, data } = message;
    if (data === null) {
      const fresh = !this.gaveEmpty;
      this.gaveEmpty = true;
      return fresh ? [{ kind: "update", token, snapshot, data }] : [];
    }
    if (!this.isNews(data)) return [];
    this.last = data;
    this.gaveEmpty = false;
    return [{ kind: "update", token, snapshot, data }];
  }

  isNews(data) {
    const last = this.last;
    if (last === null) return true;
    const order = compare([data.epoch, data.seq], [last.epoch, last.seq]);
    // Staleness and the operators' fields change without a new seq.
    if (order === 0) return this.gaveEmpty || JSON.stringify(data) !== JSON.stringify(last);
    // If numbers of an older epoch are much younger, the service has lost its state.
    return order > 0 || data.as_of >= last.as_of + RESTARTED_AFTER_MS;
  }

  resume() {
    const last = this.last;
    // After a stale row, request a snapshot to learn that the row is fresh again.
    if (last === null || last.stale || this.gaveEmpty) return null;
    return { epoch: last.epoch, seq: last.seq };
  }
}

const gap = (token, from_n, to_n, restarted, cause) => {
  return { kind: "gap", token, from_n, to_n, restarted, cause };
};

// The number of a token's first trade is one above a multiple of 2^20.
const beforeTheFirst = (n) => Math.floor((n - 1) / 2 ** 20) * 2 ** 20;

class TradesCursor {
  n = null;
  offset = null;

  take(message) {
    const { token, data } = message;
    if (message.type === "gap") return this.takeGap(token, data);
    const snapshot = message.type === "snapshot";
    const events = [];
    let first = this.n === null;
    if (!first && snapshot && this.beganAgain(data.trades)) {
      events.push(gap(token, this.n + 1, null, true, "service"));
      this.n = null;
      first = true;
    }
    const known = this.n;
    const trades = known === null ? data.trades : data.trades.filter((each) => each.n > known);
    const next = trades.length ? trades[0].n : (data.n ?? 0) + 1;
    const expected = (known || beforeTheFirst(next)) + 1;
    if (known !== null && next > expected) {
      events.push(gap(token, expected, next - 1, false, "connection"));
    }
    if (trades.length) ({ n: this.n, offset: this.offset } = trades.at(-1));
    else if ((data.n ?? -1) > (known ?? -1)) {
      this.n = data.n;
      this.offset = null;
    }
    if (trades.length || (snapshot && first)) {
      events.push({ kind: "update", token, snapshot: snapshot && first, data: { trades } });
    }
    return events;
  }

  takeGap(token, { from_n, to_n, restarted }) {
    if (restarted) {
      this.n = this.offset = null;
      return [gap(token, from_n, to_n, true, "service")];
    }
    let from = from_n;
    if (this.n !== null) {
      if (to_n !== null && to_n <= this.n) return [];
      from = Math.max(from, this.n + 1);
    }
    if (to_n !== null) {
      this.n = to_n;
      this.offset = null;
    }
    return [gap(token, from, to_n, false, "service")];
  }

  beganAgain(trades) {
    if (!trades.length) return false;
    const other = (each) =>
      each.n === this.n && this.offset !== null && each.offset !== this.offset;
    return trades.at(-1).n < this.n || trades.some(other);
  }

  resume() {
    if (this.n === null) return null;
    return this.offset === null ? { n: this.n } : { n: this.n, offset: this.offset };
  }
}

class CandlesCursor {
  at = [0, 0];

  take(message) {
    const at = [message.epoch, message.seq];
    const snapshot = message.type === "snapshot";
    if (!snapshot && compare(at, this.at) < 0) return [];
    this.at = at;
    const { token, interval, data } = message;
    return [{ kind: "update", token, interval, snapshot, data }];
  }

  resume() {
    return null;
  }
}

class OverviewCursor {
  asOf = 0;

  take(message) {
    const asOf = message.data.as_of ?? 0;
    if (this.asOf - RESTARTED_AFTER_MS < asOf && asOf < this.asOf) return [];
    this.asOf = asOf;
    const snapshot = message.type === "snapshot";
    return [{ kind: "update", params: message.params, snapshot, data: message.data }];
  }

  resume() {
    return null;
  }
}

class StatusCursor {
  take(message) {
    return [{ kind: "update", snapshot: message.type === "snapshot", data: message.data }];
  }

  resume() {
    return null;
  }
}

const CURSORS = {
  token_stats: StatsCursor,
  trades: TradesCursor,
  candles: CandlesCursor,
  overview: OverviewCursor,
  status: StatusCursor,
};

const keyOf = (topic) =>
  JSON.stringify([topic.channel, topic.token ?? null, topic.interval ?? null, topic.query ?? null]);

// The queue of one reader. It conflates absolute values to the newest of each topic and keeps the
// newest `buffer` trades; dropped ones become one gap per token.
export class Inbox {
  constructor(topics, intervalMs = 100, buffer = 10_000) {
    this.topics = new Map(topics.map((topic) => [keyOf(topic), topic]));
    this.intervalMs = intervalMs;
    this.buffer = buffer;
    this.conflated = 0;
    this.wake = () => {};
    this.cursors = new Map(
      [...this.topics].map(([key, topic]) => [key, new CURSORS[topic.channel]()]),
    );
    this.newest = new Map();
    this.refused = new Map();
    this.error = undefined;
    this.lost = new Map();
    this.stream = [];
    this.weight = 0;
  }

  take(key, message) {
    const streamed = message.channel === "trades";
    for (const event of this.cursors.get(key).take(message)) {
      this.refused.delete(key);
      if (streamed) this.append(event);
      else this.replace(key, event);
    }
    this.wake();
  }

  refuse(key, code, message) {
    const token = this.topics.get(key).token ?? null;
    this.refused.set(key, { kind: "error", error: new RequestRefused(code, message, token) });
    this.wake();
  }

  fail(error) {
    this.error = { kind: "error", error };
    this.wake();
  }

  resume(key) {
    return this.cursors.get(key).resume();
  }

  // Returns the next event or undefined; the error that ended the subscription comes last.
  pop() {
    for (const waiting of [this.refused, this.lost]) {
      if (waiting.size) return shift(waiting);
    }
    if (this.stream.length) {
      const event = this.stream.shift();
      this.weight -= weightOf(event);
      return event;
    }
    if (this.newest.size) return shift(this.newest);
    const error = this.error;
    this.error = undefined;
    return error;
  }

  replace(key, event) {
    const before = this.newest.get(key);
    if (before !== undefined) this.conflated += 1;
    this.newest.set(key, before === undefined ? event : merged(before, event));
  }

  append(event) {
    this.stream.push(event);
    this.weight += weightOf(event);
    while (this.weight > this.buffer) this.lose(this.weight - this.buffer);
  }

  lose(excess) {
    this.conflated += 1;
    const oldest = this.stream.shift();
    this.weight -= weightOf(oldest);
    if (oldest.kind === "gap") return this.noteLost(oldest);
    const gone = oldest.data.trades.slice(0, excess);
    const kept = oldest.data.trades.slice(excess);
    if (gone.length) {
      this.noteLost(gap(oldest.token, gone[0].n, gone.at(-1).n, false, "slow_reader"));
    }
    if (kept.length) {
      this.stream.unshift({ ...oldest, data: { trades: kept } });
      this.weight += kept.length;
    }
  }

  noteLost(event) {
    const before = this.lost.get(event.token);
    if (before === undefined) return this.lost.set(event.token, event);
    const restarted = before.restarted || event.restarted;
    const toN = restarted ? null : event.to_n;
    this.lost.set(event.token, gap(event.token, before.from_n, toN, restarted, "slow_reader"));
  }
}

function shift(map) {
  const [key, value] = map.entries().next().value;
  map.delete(key);
  return value;
}

const weightOf = (event) => (event.kind === "gap" ? 1 : Math.max(1, event.data.trades.length));

function merged(before, event) {
  if (event.snapshot) return event;
  const snapshot = before.snapshot;
  if (!event.data?.candles) return { ...event, snapshot };
  const byTime = new Map();
  for (const each of [...before.data.candles, ...event.data.candles]) {
    byTime.set(each.open_time, each);
  }
  const candles = [...byTime.values()].sort((a, b) => a.open_time - b.open_time);
  return { ...event, snapshot, data: { candles: candles.slice(-CANDLES_KEPT) } };
}

const labelOf = (params) => JSON.stringify(Object.entries(params).sort());

// One client's state across all its connections; `draw` returns a random number in [0, 1).
export class Session {
  constructor(backoff, draw, renewable) {
    this.backoff = backoff;
    this.draw = draw;
    this.renewable = renewable;
    this.state = "connecting";
    this.nodeStale = true;
    this.renewAt = null;
    this.attempt = 0;
    this.anotherTokenTried = false;
    this.readers = new Map();
    this.topics = new Map();
    this.ids = 0;
    this.onNotice = () => {};
    this.refusal = null;
    this.connecting();
  }

  get stale() {
    return this.state !== "open" || this.nodeStale;
  }

  add(inbox) {
    for (const [key, topic] of inbox.topics) {
      if (!this.readers.has(key)) this.readers.set(key, new Set());
      this.readers.get(key).add(inbox);
      this.topics.set(key, topic);
      this.wanted.add(key);
      this.unwanted.delete(key);
    }
  }

  remove(inbox) {
    for (const [key, topic] of inbox.topics) {
      const readers = this.readers.get(key);
      if (!readers?.delete(inbox) || readers.size) continue;
      this.readers.delete(key);
      this.topics.delete(key);
      this.wanted.delete(key);
      const same = this.labels.get(key) ?? key;
      this.labels.delete(key);
      // A topic that another reader spelled differently may be the same to the service.
      if (!this.readers.has(same) && ![...this.labels.values()].includes(same)) {
        this.unwanted.set(key, topic);
      }
    }
  }

  inboxes() {
    return new Set([...this.readers.values()].flatMap((each) => [...each]));
  }

  connecting() {
    this.state = "connecting";
    this.said = this.saidWhy = "";
    this.openedAt = this.retryAfterMs = this.renewAt = null;
    this.limitedForMs = 0;
    this.asked = new Map();
    this.renewals = new Set();
    this.labels = new Map();
    this.unwanted = new Map();
    this.wanted = new Set(this.readers.keys());
  }

  // Returns the ms until the next attempt and sets `refusal` if the service refused the connection.
  // Throws AuthRefused if there must be no further attempt.
  lost(code, nowMs) {
    const wait = this.waitAfter(code, nowMs);
    const refused = AUTH_CODES.has(code) || LIMIT_CODES.has(code);
    this.refusal = !refused
      ? null
      : {
          code: this.said || "closed",
          reason: this.saidWhy || `closed with ${code}`,
          close_code: code,
          retry_in_ms: wait,
          attempts: this.attempt,
        };
    return wait;
  }

  waitAfter(code, nowMs) {
    if (AUTH_CODES.has(code)) {
      if (!this.renewable || this.anotherTokenTried) {
        throw new AuthRefused(code, this.said || "refused");
      }
      this.anotherTokenTried = true;
    }
    this.state = "waiting";
    if (this.openedAt !== null && nowMs - this.openedAt >= PROVED_AFTER_MS) this.attempt = 0;
    if (this.retryAfterMs !== null) {
      this.attempt = 0;
      return this.retryAfterMs;
    }
    const wait = waitMs(this.backoff, this.attempt, this.draw(), LIMIT_CODES.has(code));
    this.attempt += 1;
    return wait + Math.max(0, this.limitedForMs - this.backoff.limitedMs);
  }

  // Returns the requests to send now, each once.
  requests() {
    if (this.state !== "open") return [];
    const groups = new Map();
    const put = (method, key, topic, intervalMs) => {
      const { channel, interval, query } = topic;
      const group = JSON.stringify([method, channel, interval, query, intervalMs]);
      if (!groups.has(group)) groups.set(group, { method, topic, intervalMs, members: [] });
      groups.get(group).members.push([key, topic]);
    };
    for (const [key, topic] of this.unwanted) put("unsubscribe", key, topic, null);
    for (const key of this.wanted) {
      const intervals = [...this.readers.get(key)].map((each) => each.intervalMs);
      put("subscribe", key, this.topics.get(key), Math.min(...intervals));
    }
    this.unwanted = new Map();
    this.wanted = new Set();
    return [...groups.values()].flatMap((group) => this.split(group));
  }

  split({ method, topic, intervalMs, members }) {
    const base = { method, channel: topic.channel };
    if (topic.interval) base.interval = topic.interval;
    if (topic.query) Object.assign(base, JSON.parse(topic.query));
    if (method === "subscribe" && topic.channel !== "trades") base.interval_ms = intervalMs;
    const requests = [];
    let size = REQUEST_BYTES;
    for (const [key, member] of members) {
      const cost = 6 * (member.token?.length ?? 0) + 80;
      const full = requests.at(-1)?.tokens?.length >= REQUEST_TOKENS;
      if (full || size + cost > REQUEST_BYTES) {
        requests.push({ ...base, req_id: ++this.ids });
        this.asked.set(this.ids, new Map());
        size = 0;
      }
      size += cost;
      const request = requests.at(-1);
      this.asked.get(request.req_id).set(member.token ?? null, key);
      if (member.token) (request.tokens ??= []).push(member.token);
      const resume = method === "subscribe" ? this.resume(key) : null;
      if (resume !== null) (request.resume ??= {})[member.token] = resume;
    }
    return requests;
  }

  // Returns what all readers of the topic have; null if one of them has nothing.
  resume(key) {
    const resumes = [...this.readers.get(key)].map((each) => each.resume(key));
    if (resumes.includes(null)) return null;
    const place = (each) => [each.epoch ?? each.n, each.seq ?? each.offset ?? 0];
    return resumes.sort((a, b) => compare(place(a), place(b)))[0];
  }

  renewal(token) {
    this.renewAt = null;
    this.renewals.add(++this.ids);
    return { method: "auth", token, req_id: this.ids };
  }

  renewalFailed(nowMs) {
    this.renewAt = nowMs + RENEW_AGAIN_MS * (0.5 + this.draw() / 2);
  }

  // Processes the messages of a frame in order.
  received(text, nowMs) {
    for (const message of JSON.parse(text)) this.onMessage(message, nowMs);
  }

  onMessage(message, nowMs) {
    const { type, data } = message;
    if (message.channel && ["snapshot", "update", "gap"].includes(type)) this.onData(message);
    else if (type === "ack") this.onAck(message);
    else if (type === "heartbeat") this.nodeStale = data.stale;
    else if (type === "error") this.onError(message, nowMs);
    else if (type === "notice") this.onNotice(message.message);
    else if (type === "server_shutdown") this.retryAfterMs = data.retry_after_ms;
    else if (type === "welcome") {
      this.state = "open";
      this.nodeStale = data.stale;
      this.openedAt = nowMs;
      this.refusal = null;
      this.anotherTokenTried = false;
    } else if (type === "auth_expiring" && this.renewable) {
      // Renew within the first half of the remaining time, spread over it for many clients.
      const wait = (data.expires_in_ms * this.draw()) / 2;
      this.renewAt = nowMs + Math.max(LEAST_RENEWAL_MS, wait);
    }
  }

  onData(message) {
    const { channel, token, interval, data } = message;
    if (channel === "status") this.nodeStale = data.stale || !data.connected;
    const overview = channel === "overview";
    const label = overview ? labelOf(message.params) : keyOf({ channel, token, interval });
    const keys = [...this.labels].filter(([, each]) => each === label).map(([key]) => key);
    for (const key of overview ? keys : [label, ...keys]) {
      for (const inbox of this.readers.get(key) ?? []) inbox.take(key, message);
    }
  }

  onAck(message) {
    this.renewals.delete(message.req_id);
    const asked = this.asked.get(message.req_id);
    // An ack names the canonical id; `asked` is the spelling of the request.
    const { channel, token = null, interval } = message;
    const name = message.asked ?? token;
    const key = asked?.get(name);
    if (key === undefined) return;
    asked.delete(name);
    if (!asked.size) this.asked.delete(message.req_id);
    if (message.method !== "subscribe") return;
    if (message.error) {
      const { code, message: text } = message.error;
      for (const inbox of this.readers.get(key) ?? []) inbox.refuse(key, code, text);
    } else if (this.readers.has(key)) {
      if (channel === "overview") this.labels.set(key, labelOf(message.params));
      else if (message.asked) this.labels.set(key, keyOf({ channel, token, interval }));
    }
  }

  onError(message, nowMs) {
    if (this.renewals.delete(message.req_id)) return this.renewalFailed(nowMs);
    const asked = this.asked.get(message.req_id);
    this.asked.delete(message.req_id);
    if (message.code === "rate_limited" && message.data) {
      this.limitedForMs = message.data.retry_after_ms;
    }
    if (asked === undefined) {
      this.said = message.code;
      this.saidWhy = message.message;
    }
    const error = new RequestRefused(message.code, message.message);
    for (const key of asked?.values() ?? []) {
      for (const inbox of [...(this.readers.get(key) ?? [])]) {
        inbox.fail(error);
        this.remove(inbox);
      }
    }
  }
}

export function socketUrl(url, base = globalThis.location?.href) {
  const parsed = new URL(url, base);
  const scheme = { "http:": "ws:", "https:": "wss:", "ws:": "ws:", "wss:": "wss:" }[parsed.protocol];
  if (!scheme) throw new TypeError("url: give one such as wss://host/ws or https://host");
  parsed.protocol = scheme;
  if (parsed.pathname === "/") parsed.pathname = "/ws";
  parsed.hash = "";
  return parsed.href;
}

const TOKEN_CHANNELS = new Set(["token_stats", "trades", "candles"]);

function topicsOf({ channel, tokens = [], interval, params = {} }) {
  if (!(channel in CURSORS)) throw new TypeError(`channel: there is no ${channel}`);
  if (channel === "overview") {
    return [{ channel, query: JSON.stringify(Object.fromEntries(Object.entries(params).sort())) }];
  }
  if (channel === "status") return [{ channel }];
  if (!TOKEN_CHANNELS.has(channel) || !Array.isArray(tokens) || !tokens.length) {
    throw new TypeError("tokens: give an array with at least one id of the form chain:token");
  }
  if ((channel === "candles") !== Boolean(interval)) {
    throw new TypeError("interval: give it for the channel candles, and for no other");
  }
  return tokens.map((token) => ({ channel, token, interval }));
}

/** One reader; made by `SwapsClient.subscribe`. */
export class Subscription {
  constructor(inbox, handlers, leave) {
    this.inbox = inbox;
    this.handlers = handlers;
    this.leave = leave;
    this.closed = false;
    this.busy = false;
    inbox.wake = () => this.pump();
  }

  /** How many events were replaced by newer ones or dropped because the reader was slower. */
  get conflated() {
    return this.inbox.conflated;
  }

  /** Unsubscribes; no handler is called afterwards. */
  close() {
    if (this.closed) return;
    this.closed = true;
    this.leave(this.inbox);
  }

  // Waits for a handler that returns a promise; the inbox stays bounded meanwhile.
  async pump() {
    if (this.busy) return;
    this.busy = true;
    for (let event; !this.closed && (event = this.inbox.pop()) !== undefined; ) {
      try {
        const waiting = this.handle(event);
        if (typeof waiting?.then === "function") await waiting;
      } catch (error) {
        // An error in a handler must neither end the stream nor be swallowed.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
    this.busy = false;
  }

  handle(event) {
    const { onSnapshot, onUpdate, onGap, onError } = this.handlers;
    if (event.kind === "gap") return onGap?.(event);
    if (event.kind === "error") return onError?.(event.error);
    return (event.snapshot && onSnapshot ? onSnapshot : onUpdate)?.(event);
  }
}

/**
 * One connection to the service, kept until `close`. Events: "change" (detail {state, stale}),
 * "refused" (detail {code, reason, close_code, retry_in_ms, attempts}: the service refused the
 * connection, the client will retry), "error" (detail is the error that ended the client), "notice"
 * (detail is an operator's text). `error` is the error that ended the client, or the refusal of its
 * last connection.
 */
export class SwapsClient extends EventTarget {
  constructor({ url, token, backoff = {}, silenceMs = SILENCE_MS, WebSocket: kind } = {}) {
    super();
    this.url = socketUrl(url);
    this.token = token;
    this.silenceMs = silenceMs;
    this.kind = kind ?? globalThis.WebSocket;
    if (!this.kind) throw new TypeError("WebSocket: this runtime has none (Node 22 has)");
    const times = { firstMs: 500, longestMs: 30_000, limitedMs: 5_000, ...backoff };
    this.session = new Session(times, Math.random, typeof token === "function");
    this.session.onNotice = (detail) => this.dispatchEvent(new CustomEvent("notice", { detail }));
    this.reported = { state: this.state, stale: this.stale };
    this.socket = null;
    this.timers = {};
    this.sending = false;
    this.connect();
  }

  /** "connecting", "open", "waiting" (lost, the client will retry) or "closed". */
  get state() {
    return this.session.state;
  }

  /** Whether the last received numbers may be old: not connected, or the node reports it. */
  get stale() {
    return this.session.stale;
  }

  /** Handlers receive {token, snapshot, data, …}; `onGap` receives {token, from_n, to_n, …}. */
  subscribe({ channel, tokens, interval, params, intervalMs, buffer, ...handlers }) {
    const pace = intervalMs ?? (TOKEN_CHANNELS.has(channel) ? 100 : 1_000);
    const inbox = new Inbox(topicsOf({ channel, tokens, interval, params }), pace, buffer);
    const subscription = new Subscription(inbox, handlers, (each) => {
      this.session.remove(each);
      this.send();
    });
    if (this.state === "closed") {
      inbox.fail(this.error ?? new Error("the client is closed"));
    } else {
      this.session.add(inbox);
      this.send();
    }
    return subscription;
  }

  /** Ends the connection and every subscription. A second call does nothing. */
  close() {
    if (this.state === "closed") return;
    this.session.state = "closed";
    if (this.error instanceof ConnectionRefused) this.error = undefined;
    for (const timer of Object.values(this.timers)) clearTimeout(timer);
    this.drop(1000);
    this.note();
  }

  async connect() {
    this.session.connecting();
    this.note();
    let token;
    try {
      token = typeof this.token === "function" ? await this.token() : this.token;
    } catch {
      return this.onLost(null, null);
    }
    if (this.state === "closed") return;
    const socket = new this.kind(this.url, ["bearer", token]);
    this.socket = socket;
    this.bucket = new TokenBucket(performance.now());
    this.later("silence", this.silenceMs * 3, () => this.onLost(socket, null));
    socket.onmessage = ({ data }) => this.onFrame(socket, data);
    socket.onclose = ({ code }) => this.onLost(socket, code);
  }

  onFrame(socket, data) {
    if (socket !== this.socket) return;
    // The service sends a heartbeat after 1 s of silence.
    this.later("silence", this.silenceMs, () => this.onLost(socket, null));
    try {
      this.session.received(data, performance.now());
    } catch (error) {
      return this.fail(error);
    }
    if (this.state === "open") this.error = undefined;
    if (this.session.renewAt !== null) {
      const wait = Math.max(0, this.session.renewAt - performance.now());
      this.later("renew", wait, () => this.renew(socket));
    }
    this.note();
    this.send();
  }

  onLost(socket, code) {
    if (socket !== this.socket || this.state === "closed") return;
    this.drop();
    let wait;
    try {
      wait = this.session.lost(code, performance.now());
    } catch (error) {
      return this.fail(error);
    }
    this.later("connect", wait, () => this.connect());
    const detail = this.session.refusal;
    if (detail !== null) this.error = new ConnectionRefused(detail);
    this.note();
    if (detail !== null) this.dispatchEvent(new CustomEvent("refused", { detail }));
  }

  // Drops the socket immediately, because a dead peer does not answer a closing handshake.
  drop(code) {
    const socket = this.socket;
    this.socket = null;
    clearTimeout(this.timers.silence);
    clearTimeout(this.timers.renew);
    if (socket !== null) {
      socket.onmessage = socket.onclose = null;
      socket.close(code);
    }
  }

  fail(error) {
    this.error = error;
    const inboxes = this.session.inboxes();
    this.close();
    for (const inbox of inboxes) inbox.fail(error);
    this.dispatchEvent(new CustomEvent("error", { detail: error }));
  }

  async renew(socket) {
    if (socket !== this.socket) return;
    this.session.renewAt = null;
    let token;
    try {
      token = await this.token();
    } catch {
      this.session.renewalFailed(performance.now());
      return;
    }
    if (socket === this.socket) socket.send(JSON.stringify(this.session.renewal(token)));
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    // Batch the subscriptions that are made in the same task.
    await null;
    for (let requests; (requests = this.session.requests()).length; ) {
      const socket = this.socket;
      for (const request of requests) {
        const wait = this.bucket.take(performance.now());
        if (wait > 0) await new Promise((done) => setTimeout(done, wait));
        if (socket !== this.socket) break;
        socket.send(JSON.stringify(request));
      }
    }
    this.sending = false;
  }

  later(name, ms, act) {
    clearTimeout(this.timers[name]);
    this.timers[name] = setTimeout(act, ms);
  }

  note() {
    const { state, stale } = this;
    if (state === this.reported.state && stale === this.reported.stale) return;
    this.reported = { state, stale };
    this.dispatchEvent(new CustomEvent("change", { detail: this.reported }));
  }
}

// Sending swaps (POST /api/ingest/swaps, docs/rest.md).

const BYTES_A_REQUEST = 1_000_000;
const REPEATED = new Set([408, 429, 500, 502, 503, 504]);

/**
 * A batch of swaps was not taken; the batches before it were (`report`). Give the swaps from index
 * `first` on again: later if `status` is null (not acknowledged in time), else once what the service
 * refuses is corrected.
 */
export class IngestFailed extends Error {
  constructor(status, { code, detail }, report, first) {
    super(`${code}: ${detail}`);
    this.name = "IngestFailed";
    Object.assign(this, { status, code, detail, report, first });
  }
}

/** Yields {first, body}: NDJSON of at most `most` swaps; a text is sent as it is. */
export function* batchesOf(swaps, most = 1_000) {
  let [first, size, lines, index] = [0, 0, [], 0];
  for (const swap of swaps) {
    const line = (typeof swap === "string" ? swap : JSON.stringify(swap)).trim();
    if (line.includes("\n")) throw new TypeError(`swap ${index}: give JSON without line breaks`);
    // A character has at most 3 bytes in UTF-8.
    const bytes = 3 * line.length + 1;
    if (lines.length && (lines.length === most || size + bytes > BYTES_A_REQUEST)) {
      yield { first, body: lines.join("\n") };
      [first, size, lines] = [index, 0, []];
    }
    lines.push(line);
    size += bytes;
    index += 1;
  }
  if (lines.length) yield { first, body: lines.join("\n") };
}

/**
 * Sends swaps in order and resolves to {accepted, rejected, errors} once Kafka has acknowledged each
 * good one. A body that is not acknowledged (503, 429, a lost connection) is sent again as a whole,
 * after the service's Retry-After: a repeat of a swap is not counted. Rejects with IngestFailed.
 */
export async function ingest({ url, token, swaps, most, withinMs = null, backoff, fetch: get }) {
  const sending = {
    target: new URL("/api/ingest/swaps", new URL(url, globalThis.location?.href)).href,
    fresh: async () => (typeof token === "function" ? token() : token),
    renewable: typeof token === "function",
    times: { firstMs: 500, longestMs: 30_000, ...backoff },
    get: get ?? globalThis.fetch,
    withinMs,
  };
  sending.token = await sending.fresh();
  const report = { accepted: 0, rejected: 0, errors: [] };
  for (const batch of batchesOf(swaps, most)) await deliver(sending, batch, report);
  return report;
}

async function deliver(sending, { first, body }, report) {
  const begun = performance.now();
  let renewable = sending.renewable;
  for (let attempt = 0; ; attempt += 1) {
    const { status, retryMs, said } = await post(sending, body);
    if (said.rejected !== undefined) {
      report.accepted += said.accepted;
      report.rejected += said.rejected;
      for (const { line, ...error } of said.errors) {
        report.errors.push({ index: first + line - 1, ...error });
      }
      return;
    }
    if (status === 401 && renewable) {
      sending.token = await sending.fresh();
      renewable = false;
      continue;
    }
    if (!REPEATED.has(status)) throw new IngestFailed(status, said, report, first);
    const wait = retryMs + waitMs(sending.times, attempt, Math.random());
    if (sending.withinMs !== null && performance.now() + wait > begun + sending.withinMs) {
      throw new IngestFailed(null, said, report, first);
    }
    await new Promise((done) => setTimeout(done, wait));
  }
}

async function post({ target, token, get }, body) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/x-ndjson" };
  try {
    const answer = await get(target, { method: "POST", headers, body });
    const said = await answer.json().catch(() => ({ code: `${answer.status}`, detail: "" }));
    const retryMs = 1_000 * (Number(answer.headers.get("Retry-After")) || 0);
    return { status: answer.status, retryMs, said };
  } catch (error) {
    return { status: 503, retryMs: 0, said: { code: "connection_lost", detail: error.message } };
  }
}
