// The trades of a token, newest first: live ones, then older ones by REST.

import { addressOf } from "./addresses.js";
import { ARROWS, UNKNOWN, amount, count, price, short, usd } from "./format.js";
import { flash, h, paint, put } from "./dom.js";
import { visible } from "./names.js";
import { get } from "./session.js";
import { clock, moment, zone } from "./times.js";

const LIVE = 200;
const PAGE = 100;
const MOST = 2_000;
const body = document.getElementById("trades");
const note = document.getElementById("trades-note");
const state = document.getElementById("trades-state");
const more = document.getElementById("trades-older");
const zoned = document.getElementById("trades-zone");
const undone = document.getElementById("trades-undone");
const DIRECTIONS = { buy: "up", sell: "down" };
const CAUSES = {
  service: "the service no longer has them",
  connection: "the connection was lost",
  slow_reader: "this page was too slow",
};

const UNDONE = "taken back by the chain";

const keyOf = (trade) => `${trade.tx_hash} ${trade.log_index}`;

export class Trades {
  #kept = [];
  #drawn = new Map();
  #abort = new AbortController();
  #path = "";
  #cursor = null;
  #paged = false;
  #asking = false;
  #complete = false;
  #known = false;
  #fault = "";

  /** `onTrades(newest)` is called with the newest known trade whenever trades arrive. */
  constructor(live, tokenId, onTrades) {
    this.live = live;
    this.onTrades = onTrades;
    this.#path = `/api${addressOf(tokenId)}/trades`;
    body.replaceChildren();
    note.textContent = "";
    put(undone, "");
    put(zoned, zone(live.now));
    more.onclick = () => this.#older();
    this.#explain();
    this.subscription = live.subscribe({
      channel: "trades",
      tokens: [tokenId],
      onSnapshot: ({ data }) => this.#take(data.trades, true),
      onUpdate: ({ data }) => this.#take(data.trades, false),
      onGap: (gap) => this.#gap(gap),
      onError: ({ message }) => this.#fail(message),
    });
  }

  close() {
    this.#abort.abort();
    this.subscription.close();
  }

  #take(trades, snapshot) {
    const first = !this.#known;
    this.#known = true;
    if (snapshot) this.#restart();
    for (const trade of trades) {
      if (trade.removed) {
        // A retraction gets no line, which would read like a trade; the retracted trade is struck out.
        const strike = (each) => (keyOf(each) === keyOf(trade) ? { ...each, undone: true } : each);
        this.#kept = this.#kept.map(strike);
      } else this.#kept.unshift(trade);
    }
    this.#limit();
    this.#show(!snapshot);
    if (first && !this.#kept.length) this.#older();
  }

  #restart() {
    this.#kept = [];
    this.#cursor = null;
    this.#paged = false;
    this.#complete = false;
  }

  #limit() {
    this.#kept = this.#kept.slice(0, this.#paged ? MOST : LIVE);
  }

  /** Loads a page of older trades. The first page starts at the newest, to include late trades. */
  async #older() {
    if (this.#asking || this.#complete) return;
    this.#asking = true;
    this.#fault = "";
    this.#explain();
    const live = this.#kept.length;
    const query = new URLSearchParams({ limit: this.#paged ? PAGE : live + PAGE });
    if (this.#cursor !== null) query.set("cursor", this.#cursor);
    try {
      const page = await get(`${this.#path}?${query}`, this.#abort.signal);
      const known = new Set(this.#kept.map(keyOf));
      this.#kept.push(...page.trades.filter((each) => !known.has(keyOf(each))));
      this.#cursor = page.next_cursor;
      this.#complete = page.next_cursor === null;
      this.#paged = true;
      this.#limit();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#complete = error.status === 404;
      this.#fault = error.status === 404 ? "" : faultText(error);
    } finally {
      this.#asking = false;
    }
    this.#show(false);
  }

  #fail(message) {
    this.#known = true;
    this.#complete = true;
    this.#fault = message;
    this.#explain();
  }

  #show(lit) {
    paint(this, () => {
      this.#draw(lit);
      this.#explain();
      put(undone, undoneText(this.#kept.filter((each) => each.undone)));
    });
    if (this.#kept.length) this.onTrades(this.#kept[0]);
  }

  // Says where the shown trades end.
  #explain() {
    const full = this.#kept.length >= MOST;
    more.hidden = this.#asking || this.#complete || full || !this.#known;
    more.textContent = this.#fault ? "Try again" : "Older trades";
    put(state, this.#fault || this.#said(full));
  }

  #said(full) {
    if (this.#asking) return "Asking for older trades.";
    if (!this.#known) return "Waiting for its trades.";
    if (full) return `The newest ${count(MOST)} trades; REST has the older ones.`;
    if (!this.#complete) return "";
    return this.#kept.length ? "There are no older trades." : "There are no trades of this token.";
  }

  #gap({ from_n: from, to_n: to, restarted, cause }) {
    const many = to === null ? "Some" : count(to - from + 1);
    note.textContent = restarted
      ? "The service restarted its count."
      : `${many} trades did not come: ${CAUSES[cause]}.`;
  }

  #draw(lit) {
    const drawn = new Map();
    let place = body.firstElementChild;
    for (const trade of this.#kept) {
      // A trade that was taken back may come again with the same identity, in another block.
      const key = trade.undone ? `${keyOf(trade)} undone ${trade.n}` : keyOf(trade);
      const known = this.#drawn.get(key);
      const row = known ?? rowOf(trade, this.live.now);
      drawn.set(key, row);
      if (row === place) place = place.nextElementSibling;
      else body.insertBefore(row, place);
      if (known === undefined && lit) flash(row, trade.undone ? "down" : DIRECTIONS[trade.side]);
    }
    for (const [key, row] of this.#drawn) if (!drawn.has(key)) row.remove();
    this.#drawn = drawn;
  }
}

const faultText = (error) =>
  error.status === 403
    ? "Your token lacks history:read, so there are live trades only."
    : "Older trades are not available now.";

/** Says how many trades were taken back, and what those with a price were worth. */
function undoneText(trades) {
  if (!trades.length) return "";
  const worth = trades.reduce((sum, each) => sum + Number(each.amount_usd ?? 0), 0);
  return `${count(trades.length)} ${UNDONE}, worth ${usd(String(worth))}`;
}

function rowOf(trade, now) {
  const side = DIRECTIONS[trade.side];
  const cell = (text, title = null) => h("td", { title }, text);
  const trader = trade.trader ? visible(trade.trader) : null;
  return h(
    "tr",
    { "data-n": trade.n, "data-undone": trade.undone ? "yes" : null, title: titleOf(trade) },
    h("th", { scope: "row" }, clock(trade.timestamp, now)),
    h("td", { class: side }, `${ARROWS[side]} ${trade.side}`),
    cell(price(trade.price_usd), trade.price_usd),
    cell(amount(trade.amount), trade.amount),
    cell(usd(trade.amount_usd), trade.amount_usd),
    trade.undone
      ? h("td", { class: "undone", title: trader }, UNDONE)
      : h("td", { title: trader }, h("bdi", {}, trader ? short(trader, 3) : UNKNOWN)),
  );
}

const titleOf = (trade) =>
  [
    trade.undone ? UNDONE : null,
    moment(trade.timestamp),
    trade.venue ? visible(trade.venue) : null,
    visible(trade.tx_hash),
  ]
    .filter(Boolean)
    .join(" · ");
