/** A client of the swap aggregator; the protocols are docs/websocket.md and docs/rest.md. */

export type State = "connecting" | "open" | "waiting" | "closed";
export type Token = string | (() => string | Promise<string>);
export type Interval = "1m" | "5m" | "15m" | "1h" | "4h" | "1d";

/** Money, amounts and prices are decimal strings, times ms since the epoch, unknown is null. */
export interface WindowStats {
  open_time: number;
  close_time: number;
  complete: boolean;
  trades: number;
  buys: number;
  sells: number;
  traders: number;
  buyers: number;
  sellers: number;
  volume_usd: string;
  buy_volume_usd: string;
  sell_volume_usd: string;
  net_volume_usd: string;
  volume_token: string;
  open_usd: string | null;
  high_usd: string | null;
  low_usd: string | null;
  close_usd: string | null;
  vwap_usd: string | null;
  price_change_pct: number | null;
  largest_trade_usd: string | null;
  previous: { volume_usd: string; trades: number; price_change_pct: number | null } | null;
  approximate: boolean;
}

export interface TokenStats {
  token_id: string;
  chain: string;
  token: string;
  symbol: string | null;
  name: string | null;
  decimals: number | null;
  flags: string[];
  partition: number;
  epoch: number;
  seq: number;
  as_of: number;
  watermark: number | null;
  stale: boolean;
  last_price_usd: string | null;
  last_trade_at: number | null;
  quality: { unpriced: number; duplicates: number; late: number; retracted: number };
  windows: Record<string, WindowStats>;
}

/** `removed` retracts an earlier trade of the same tx_hash and log_index. */
export interface Trade {
  n: number;
  timestamp: number;
  offset: number;
  side: "buy" | "sell";
  amount: string;
  amount_usd: string | null;
  price_usd: string | null;
  trader: string | null;
  venue: string | null;
  pool: string | null;
  quote: string | null;
  tx_hash: string;
  log_index: number;
  removed: boolean;
  block_number: number | null;
}

export interface Candle {
  open_time: number;
  close_time: number;
  open_usd: string | null;
  high_usd: string | null;
  low_usd: string | null;
  close_usd: string | null;
  volume_usd: string;
  volume_token: string;
  trades: number;
  vwap_usd: string | null;
}

export interface Overview {
  as_of: number | null;
  window: string;
  totals: {
    tokens: number;
    trades: number;
    buys: number;
    sells: number;
    volume_usd: string;
    buy_volume_usd: string;
    sell_volume_usd: string;
  };
  tokens: TokenStats[];
  stale: boolean;
  /** The cursor of the next page of GET /api/overview; null on the last page. */
  next_cursor: string | null;
}

export interface Status {
  stale: boolean;
  connected: boolean;
  partitions: {
    partition: number;
    state: string;
    stale: boolean;
    epoch: number;
    seq: number;
    next_offset: number;
    as_of: number | null;
    watermark: number | null;
    lag: number | null;
    age_ms: number | null;
  }[];
}

/** `snapshot`: the data replaces everything before it. */
interface Update<D> {
  kind: "update";
  snapshot: boolean;
  data: D;
}

export type StatsUpdate = Update<TokenStats | null> & { token: string };
/** In order of `n`, each once, without holes unless a gap precedes them. */
export type TradesUpdate = Update<{ trades: Trade[] }> & { token: string };
/** Complete candles: each replaces the one with the same open_time. */
export type CandlesUpdate = Update<{ candles: Candle[] }> & { token: string; interval: Interval };
export type OverviewUpdate = Update<Overview> & { params: Record<string, unknown> };
export type StatusUpdate = Update<Status>;

/** Trades from_n … to_n were not received; `restarted`: `n` starts again, a snapshot follows. */
export interface Gap {
  kind: "gap";
  token: string;
  from_n: number;
  to_n: number | null;
  restarted: boolean;
  cause: "service" | "connection" | "slow_reader";
}

/** The client waits for a handler that returns a promise; the queue stays bounded meanwhile. */
interface Handlers<U> {
  /** Without this handler, snapshots go to onUpdate. */
  onSnapshot?(update: U): unknown;
  onUpdate?(update: U): unknown;
  onError?(error: AuthRefused | RequestRefused | Error): unknown;
}

interface Absolute {
  /** The minimum time between two updates, 100 to 10,000. */
  intervalMs?: number;
}

export type Request =
  | ({ channel: "token_stats"; tokens: string[] } & Absolute & Handlers<StatsUpdate>)
  | ({
      channel: "trades";
      tokens: string[];
      /** How many trades wait for a slow handler before the oldest become a gap. */
      buffer?: number;
      onGap?(gap: Gap): unknown;
    } & Handlers<TradesUpdate>)
  | ({ channel: "candles"; tokens: string[]; interval: Interval } & Absolute &
      Handlers<CandlesUpdate>)
  | ({
      channel: "overview";
      /** Those of GET /api/overview. */
      params?: Record<string, string | number>;
    } & Absolute &
      Handlers<OverviewUpdate>)
  | ({ channel: "status" } & Absolute & Handlers<StatusUpdate>);

export interface Options {
  /** The socket's address (wss://host/ws), the service's (https://host), or a path on its host. */
  url: string;
  /** A JWT, or a function that returns a fresh one: for each connection and before it expires. */
  token: Token;
  backoff?: { firstMs?: number; longestMs?: number; limitedMs?: number };
  /** After this much time without a frame the connection counts as dead. */
  silenceMs?: number;
  WebSocket?: typeof WebSocket;
}

export class AuthRefused extends Error {
  readonly closeCode: number;
  readonly reason: string;
}

/** Why the service refused a connection; the client retries in `retry_in_ms`. */
export interface Refusal {
  /** The service's code, such as "too_many_connections", "rate_limited", "origin_not_allowed". */
  readonly code: string;
  readonly reason: string;
  readonly close_code: number;
  readonly retry_in_ms: number;
  /** How many attempts failed in a row. */
  readonly attempts: number;
}

export class ConnectionRefused extends Error implements Refusal {
  readonly code: string;
  readonly reason: string;
  readonly close_code: number;
  readonly retry_in_ms: number;
  readonly attempts: number;
}

export class RequestRefused extends Error {
  readonly code: string;
  readonly token: string | null;
}

export class Subscription {
  readonly conflated: number;
  close(): void;
}

export interface SwapsClientEventMap {
  change: CustomEvent<{ state: State; stale: boolean }>;
  /** The service refused the connection; the client will retry. */
  refused: CustomEvent<Refusal>;
  /** The error that ended the client. */
  error: CustomEvent<AuthRefused | Error>;
  /** A text from an operator. */
  notice: CustomEvent<string>;
}

export class SwapsClient extends EventTarget {
  constructor(options: Options);
  readonly state: State;
  readonly stale: boolean;
  /** The error that ended the client, or the refusal of its last connection. */
  readonly error?: Error;
  subscribe(request: Request): Subscription;
  close(): void;
  addEventListener<K extends keyof SwapsClientEventMap>(
    type: K,
    listener: (this: SwapsClient, event: SwapsClientEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof SwapsClientEventMap>(
    type: K,
    listener: (this: SwapsClient, event: SwapsClientEventMap[K]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** A swap as the service takes it; decimal strings keep every digit. See docs/rest.md. */
export interface SwapEvent {
  chain: string;
  tx_hash: string;
  log_index: number;
  /** ms since the epoch, or ISO 8601 with a zone. */
  timestamp: number | string;
  token: string;
  side: "buy" | "sell";
  amount: string | number;
  amount_usd?: string | number | null;
  price_usd?: string | number | null;
  removed?: boolean;
  leg?: 0 | 1 | null;
  block_number?: number | null;
  block_hash?: string | null;
  symbol?: string | null;
  quote?: string | null;
  quote_token?: string | null;
  venue?: string | null;
  pool?: string | null;
  trader?: string | null;
  reserve_token?: string | number | null;
  reserve_quote?: string | number | null;
}

/** A swap that the service refused; `index` is its place in what was given, from 0. */
export interface RejectedSwap {
  index: number;
  reason: string;
  field: string;
  message: string;
}

/** `errors` has the refused swaps that the service listed, at most 100 of a request. */
export interface IngestReport {
  accepted: number;
  rejected: number;
  errors: RejectedSwap[];
}

export interface IngestOptions {
  /** The service's address, or a path on the page's host. */
  url: string;
  /** A JWT with the scope swaps:write, or a function that returns a fresh one. */
  token: Token;
  /** Swaps, or their JSON, a line each. */
  swaps: Iterable<SwapEvent | string>;
  /** Most swaps in one request; 1,000 by default. */
  most?: number;
  /** Give up a batch that is not acknowledged for so long; null: never. */
  withinMs?: number | null;
  backoff?: { firstMs?: number; longestMs?: number };
  fetch?: typeof fetch;
}

export class IngestFailed extends Error {
  /** The status with which the service refuses the request; null: not acknowledged in time. */
  readonly status: number | null;
  readonly code: string;
  readonly detail: string;
  readonly report: IngestReport;
  /** Give the swaps from this index on again. */
  readonly first: number;
}

export function ingest(options: IngestOptions): Promise<IngestReport>;
