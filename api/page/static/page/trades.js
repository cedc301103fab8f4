// The newest trades of a token, newest first.

import { ARROWS, UNKNOWN, amount, clock, count, price, short, usd } from "./format.js";
import { flash, h, paint } from "./dom.js";

const SHOWN = 100;
const body = document.getElementById("trades");
const note = document.getElementById("trades-note");
const DIRECTIONS = { buy: "up", sell: "down" };
const CAUSES = {
  service: "the service no longer has them",
  connection: "the connection was lost",
  slow_reader: "this page was too slow",
};

const same = (a, b) => a.tx_hash === b.tx_hash && a.log_index === b.log_index;

export class Trades {
  #kept = [];
  #drawn = new Map();

  constructor(live, tokenId) {
    body.replaceChildren();
    note.textContent = "";
    this.subscription = live.subscribe({
      channel: "trades",
      tokens: [tokenId],
      onSnapshot: ({ data }) => this.#take(data.trades, true),
      onUpdate: ({ data }) => this.#take(data.trades, false),
      onGap: (gap) => this.#gap(gap),
    });
  }

  close() {
    this.subscription.close();
  }

  #take(trades, snapshot) {
    if (snapshot) this.#kept = [];
    for (const trade of trades) {
      if (trade.removed) {
        // Its own line would read like a trade; the one that it takes back is struck out.
        this.#kept = this.#kept.map((each) => (same(each, trade) ? { ...each, undone: true } : each));
      } else this.#kept.unshift(trade);
    }
    this.#kept = this.#kept.slice(0, SHOWN);
    paint(this, () => this.#draw(!snapshot));
  }

  #gap({ from_n: from, to_n: to, restarted, cause }) {
    const many = to === null ? "Some" : count(to - from + 1);
    note.textContent = restarted
      ? "The service began to count anew."
      : `${many} trades did not come: ${CAUSES[cause]}.`;
  }

  #draw(lit) {
    const drawn = new Map();
    let place = body.firstElementChild;
    for (const trade of this.#kept) {
      const key = `${trade.n}${trade.undone ? " undone" : ""}`;
      const known = this.#drawn.get(key);
      const row = known ?? rowOf(trade);
      drawn.set(key, row);
      if (row === place) place = place.nextElementSibling;
      else body.insertBefore(row, place);
      if (known === undefined && lit) flash(row, DIRECTIONS[trade.side]);
    }
    for (const [key, row] of this.#drawn) if (!drawn.has(key)) row.remove();
    this.#drawn = drawn;
  }
}

function rowOf(trade) {
  const side = DIRECTIONS[trade.side];
  const cell = (text, title = null) => h("td", { title }, text);
  return h(
    "tr",
    { "data-n": trade.n, "data-undone": trade.undone ? "yes" : null, title: titleOf(trade) },
    h("th", { scope: "row" }, clock(trade.timestamp)),
    h("td", { class: side }, `${ARROWS[side]} ${trade.side}`),
    cell(price(trade.price_usd), trade.price_usd),
    cell(amount(trade.amount), trade.amount),
    cell(usd(trade.amount_usd), trade.amount_usd),
    cell(trade.trader ? short(trade.trader, 3) : UNKNOWN, trade.trader),
  );
}

const titleOf = (trade) =>
  [trade.undone ? "taken back by the chain" : null, trade.venue, trade.tx_hash]
    .filter(Boolean)
    .join(" · ");
