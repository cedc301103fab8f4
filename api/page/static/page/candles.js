// A token's candles of one interval: the archive's, and over them the live ones, which are newer.

import { get } from "./session.js";

const PAGE = 300;
const AGAIN_MS = 15_000;

export const INTERVALS_MS = {
  "1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000, "4h": 14_400_000, "1d": 86_400_000,
};

/**
 * `onChange({all})`: candles came, `all` where not only the newest did. `onFault(error)`: the archive
 * cannot be asked now (null: it can again).
 */
export class Candles {
  #archived = new Map();
  #live = new Map();
  #abort = new AbortController();
  #asking = false;
  #oldestAsked = Infinity;
  #timer = null;

  constructor(live, tokenId, interval, { onChange, onFault }) {
    this.tokenId = tokenId;
    this.length = INTERVALS_MS[interval];
    this.interval = interval;
    this.onChange = onChange;
    this.onFault = onFault;
    this.complete = false;
    this.subscription = live.subscribe({
      channel: "candles",
      tokens: [tokenId],
      interval,
      onUpdate: ({ snapshot, data }) => this.#takeLive(snapshot, data.candles),
    });
    this.older(Math.floor(live.now / this.length + 1) * this.length);
  }

  /** Oldest first; those without a priced trade have nothing to draw. */
  get all() {
    const merged = new Map([...this.#archived, ...this.#live]);
    return [...merged.values()]
      .filter((each) => each.open_usd !== null)
      .sort((a, b) => a.open_time - b.open_time);
  }

  /** Ask the archive for what lies before the oldest candle; once at a time. */
  async older(until = this.#oldestAsked) {
    if (this.#asking || this.complete || until === Infinity) return;
    this.#asking = true;
    clearTimeout(this.#timer);
    const from = Math.max(0, until - PAGE * this.length);
    const query = new URLSearchParams({ interval: this.interval, from, to: until });
    const path = this.tokenId.split("/").map(encodeURIComponent).join("/");
    try {
      const { candles } = await get(`/api/tokens/${path}/candles?${query}`, this.#abort.signal);
      for (const each of candles) this.#archived.set(each.open_time, each);
      this.#oldestAsked = from;
      this.complete = !candles.length;
      this.onFault(null);
      this.onChange({ all: true });
    } catch (error) {
      if (error.name === "AbortError") return;
      this.onFault(error);
      const forGood = [401, 403, 404].includes(error.status);
      if (!forGood) this.#timer = setTimeout(() => this.older(until), AGAIN_MS);
    } finally {
      this.#asking = false;
    }
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
