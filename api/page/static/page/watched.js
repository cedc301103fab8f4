// Faster updates for the rows on the screen: every change of their stats within 100 ms, and their
// last 24 hours as hourly candles (from the aggregator's memory, not from the archive).

const SETTLED_MS = 200;
const DAY_MS = 86_400_000;
// A row takes two subscriptions, and the service allows 200 per connection.
const MOST_ROWS = 90;

export class Watched {
  #visible = new Set();
  #open = new Map();
  #timer = null;

  constructor(live, rows) {
    this.live = live;
    this.rows = rows;
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) this.#visible.add(target.dataset.token);
        else this.#visible.delete(target.dataset.token);
      }
      this.#settle();
    });
    this.observed = new Set();
  }

  /** Watches the rows that the list has now. */
  follow() {
    const tokens = new Set(this.rows.tokens);
    for (const tokenId of [...this.observed].filter((each) => !tokens.has(each))) {
      this.observed.delete(tokenId);
      this.#visible.delete(tokenId);
      this.#settle();
    }
    for (const tokenId of tokens) {
      if (this.observed.has(tokenId)) continue;
      this.observed.add(tokenId);
      this.observer.observe(this.rows.elementOf(tokenId));
    }
  }

  close() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.observer.disconnect();
    this.observed.clear();
    this.#visible.clear();
    this.#subscribe();
  }

  #settle() {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#subscribe();
    }, SETTLED_MS);
  }

  #subscribe() {
    const wanted = new Set([...this.#visible].slice(0, MOST_ROWS));
    for (const [tokenId, subscriptions] of this.#open) {
      if (wanted.has(tokenId)) continue;
      for (const each of subscriptions) each.close();
      this.#open.delete(tokenId);
    }
    for (const tokenId of wanted) {
      if (!this.#open.has(tokenId)) this.#open.set(tokenId, this.#both(tokenId));
    }
  }

  #both(tokenId) {
    const stats = this.live.subscribe({
      channel: "token_stats",
      tokens: [tokenId],
      onUpdate: ({ data }) => data !== null && this.rows.take(data),
    });
    const candles = new Map();
    const hours = this.live.subscribe({
      channel: "candles",
      tokens: [tokenId],
      interval: "1h",
      intervalMs: 10_000,
      onUpdate: ({ snapshot, data }) => {
        if (snapshot) candles.clear();
        for (const each of data.candles) candles.set(each.open_time, each);
        this.rows.drawSpark(tokenId, pointsOf(candles, this.live.now));
      },
    });
    return [stats, hours];
  }
}

function pointsOf(candles, now) {
  return [...candles.values()]
    .filter((each) => each.close_usd !== null && each.close_time > now - DAY_MS)
    .sort((a, b) => a.open_time - b.open_time)
    .map((each) => {
      const at = 1 - (now - Math.min(each.close_time, now)) / DAY_MS;
      return { at: Math.max(0, at), value: Number(each.close_usd) };
    });
}
