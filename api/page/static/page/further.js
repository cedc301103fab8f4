// The list's rows after those of the live overview, requested by REST in pages of the same order.

import { get } from "./session.js";

const STEP = 100;
const PAGE = 500;
const MOST = 2_000;
const AGAIN_MS = 5_000;

export class Further {
  #params = {};
  #wanted = 0;
  #found = [];
  #abort = null;
  #timer = null;

  /** `changed()` is called when rows or an error arrive. */
  constructor(changed) {
    this.changed = changed;
    this.fault = "";
  }

  /** Whether there are more rows. */
  get canGrow() {
    return this.#wanted < MOST;
  }

  /** Uses these parameters from now on. */
  follow(params) {
    this.#params = params;
    this.#ask();
  }

  /** Requests more rows after the `shown` rows of the live overview. */
  more(shown) {
    this.#wanted = Math.min(MOST, Math.max(this.#wanted, shown) + STEP);
    this.#ask();
  }

  reset() {
    this.close();
    this.#wanted = 0;
    this.#found = [];
    this.fault = "";
  }

  close() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
  }

  /** The live rows, then the others. A row that leaves the live ones stays among the others. */
  below(live) {
    if (!this.#wanted) return live;
    const known = new Set(live.map((each) => each.token_id));
    return [...live, ...this.#found.filter((each) => !known.has(each.token_id))];
  }

  async #ask() {
    this.close();
    if (!this.#wanted) return;
    const abort = (this.#abort = new AbortController());
    try {
      this.#found = await this.#pages(abort.signal);
      this.fault = "";
    } catch (error) {
      if (error.name === "AbortError") return;
      this.fault = ` More cannot be had now: ${error.message}`;
    }
    if (abort.signal.aborted) return;
    this.#timer = setTimeout(() => this.#ask(), AGAIN_MS);
    this.changed();
  }

  async #pages(signal) {
    const found = [];
    let cursor = null;
    do {
      const limit = Math.min(PAGE, this.#wanted - found.length);
      const query = new URLSearchParams({ ...this.#params, limit });
      if (cursor !== null) query.set("cursor", cursor);
      const page = await get(`/api/overview?${query}`, signal);
      found.push(...page.tokens);
      cursor = page.next_cursor;
    } while (cursor !== null && found.length < this.#wanted);
    return found;
  }
}
