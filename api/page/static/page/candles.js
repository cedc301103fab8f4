// A token's candles of one interval: the archive's, overlaid with the live ones, which are newer.

import { addressOf } from "./addresses.js";
import { get } from "./session.js";

const PAGE = 300;
// The most candles that one response holds.
const WIDEST = 1_500;
const FAST_PAGES = 3;
const PAUSE_MS = 300;
const AGAIN_MS = 15_000;

export const INTERVALS_MS = {
  "1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000, "4h": 14_400_000, "1d": 86_400_000,
};

/**
 * `onChange({all})`: candles arrived; `all` is true if others than the newest changed.
 * `onFault(error)`: the archive does not respond now (null: it responds again).
 */
export class Candles {
  #archived = new Map();
  #live = new Map();
  #abort = new AbortController();
  #oldestAsked = Infinity;
  #span = PAGE;
  #pages = 0;
  #timer = null;

  constructor(live, tokenId, interval, { onChange, onFault }) {
    this.tokenId = tokenId;
    this.length = INTERVALS_MS[interval];
    this.interval = interval;
    this.onChange = onChange;
    this.onFault = onFault;
    this.complete = false;
    this.asking = false;
    this.subscription = live.subscribe({
      channel: "candles",
      tokens: [tokenId],
      interval,
      onUpdate: ({ snapshot, data }) => this.#takeLive(snapshot, data.candles),
    });
    this.older(Math.floor(live.now / this.length + 1) * this.length);
  }

  /** The candles, oldest first, without those that have no priced trade and so nothing to draw. */
  get all() {
    const merged = new Map([...this.#archived, ...this.#live]);
    return [...merged.values()]
      .filter((each) => each.open_usd !== null)
      .sort((a, b) => a.open_time - b.open_time);
  }

  /**
   * Requests the candles before the oldest one; ignored while a request is pending. Skips periods
   * without trades: `complete` is set only when the archive has no trade before the last range.
   */
  async older(until = this.#oldestAsked) {
    if (this.asking || this.complete || this.#timer !== null || until === Infinity) return;
    this.asking = true;
    try {
      // Pages of a rarely traded token hold few candles; they must not exhaust the rate limit.
      if (++this.#pages > FAST_PAGES) await new Promise((done) => setTimeout(done, PAUSE_MS));
      await this.#page(until);
      this.onFault(null);
      // Drawing this page requests the next one, which would be ignored while a request is pending.
      this.asking = false;
      this.onChange({ all: true });
    } catch (error) {
      this.asking = false;
      if (error.name === "AbortError") return;
      const final = [401, 403, 404].includes(error.status);
      this.complete ||= final;
      this.onFault(error);
      if (!final) this.#timer = setTimeout(() => this.#retry(until), AGAIN_MS);
    }
  }

  #retry(until) {
    this.#timer = null;
    this.older(until);
  }

  /** Loads the candles before `until` and skips periods without trades. */
  async #page(until) {
    const path = `/api${addressOf(this.tokenId)}`;
    const from = Math.max(0, until - this.#span * this.length);
    const query = new URLSearchParams({ interval: this.interval, from, to: until });
    const { candles } = await get(`${path}/candles?${query}`, this.#abort.signal);
    for (const each of candles) this.#archived.set(each.open_time, each);
    this.#oldestAsked = from;
    // For sparse candles use the widest range, so that a screenful needs few requests.
    this.#span = candles.length < PAGE / 2 ? WIDEST : PAGE;
    if (candles.length) return;
    const before = new URLSearchParams({ limit: 1, to: from });
    const trades = from === 0 ? [] : (await get(`${path}/trades?${before}`, this.#abort.signal)).trades;
    this.complete = !trades.length;
    if (this.complete) return;
    this.#oldestAsked = Math.floor(trades[0].timestamp / this.length + 1) * this.length;
    await this.#page(this.#oldestAsked);
  }

  close() {
    this.#abort.abort();
    clearTimeout(this.#timer);
    this.subscription.close();
  }

  #takeLive(snapshot, candles) {
    const newest = Math.max(0, ...this.#live.keys());
    if (snapshot) this.#live.clear();
    for (const each of candles) this.#live.set(each.open_time, each);
    this.onChange({ all: snapshot || candles.some((each) => each.open_time < newest) });
  }
}
