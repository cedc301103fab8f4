// The table's rows: created once per token; afterwards only changed cells are written.

import { addressOf } from "./addresses.js";
import { ARROWS, age, count, flow, percent, price, side, trend, usd } from "./format.js";
import { attribute, h, paint, put, show } from "./dom.js";
import { nameOf, visible, warningOf } from "./names.js";
import { sparkline } from "./spark.js";

const DAY = "24h";
const RESTARTED_AFTER_MS = 10_000;

/** Whether `row` replaces `known`: the higher (epoch, seq) wins, as in docs/websocket.md. */
const isNews = (row, known) =>
  row.epoch > known.epoch ||
  (row.epoch === known.epoch && row.seq >= known.seq) ||
  row.as_of >= known.as_of + RESTARTED_AFTER_MS;

const windows = document.documentElement.dataset.windows.split(" ");

const titleOf = (data) =>
  [data.name ?? nameOf(data), data.token_id].map(visible).join("\n") +
  (warningOf(data.symbol) ? `\n${warningOf(data.symbol)}` : "");

class Row {
  constructor(data) {
    this.data = data;
    this.name = h("bdi");
    this.link = h("a", { href: addressOf(data.token_id), "data-link": "" }, this.name);
    this.flags = h("bdi", { class: "flags" });
    const cell = (name, ...children) => h("td", { class: name, role: "cell" }, ...children);
    this.price = h("data");
    this.changes = windows.map((window) => ({ window, value: h("data") }));
    this.volume = h("data");
    this.net = h("data");
    this.trades = h("data");
    this.traders = h("data");
    this.last = h("span");
    this.bar = h("i");
    this.sides = h("span", { class: "sides-said" });
    this.spark = cell("spark");
    const chain = h("bdi", { class: "chain" }, data.chain);
    this.element = h(
      "tr",
      { role: "row", data: { token: data.token_id } },
      h("th", { scope: "row", role: "rowheader", class: "name" }, this.link, this.flags, chain),
      cell("price", this.price),
      ...this.changes.map(({ window, value }) => cell(`change in-${window}`, value)),
      this.spark,
      cell("volume", this.volume),
      cell("net", this.net),
      cell("sides", h("span", { class: "bar", "aria-hidden": "true" }, this.bar), this.sides),
      cell("trades", this.trades),
      cell("traders", this.traders),
      cell("last", this.last),
    );
  }

  draw(window, now) {
    const { data } = this;
    const of = data.windows[window];
    put(this.name, nameOf(data));
    put(this.flags, data.flags.map(visible).join(", "));
    attribute(this.link, "title", titleOf(data));
    attribute(this.element, "data-stale", data.stale ? "yes" : null);
    show(this.price, data.last_price_usd, price(data.last_price_usd));
    attribute(this.price, "title", data.last_price_usd);
    this.drawLast(now);
    this.#drawChanges(window);
    this.drawSpark();
    if (!of) return;
    show(this.volume, of.volume_usd, usd(of.volume_usd));
    show(this.net, of.net_volume_usd, flow(of.net_volume_usd));
    this.net.className = side(of.net_volume_usd);
    show(this.trades, of.trades, count(of.trades));
    show(this.traders, of.traders, count(of.traders));
    const buys = of.trades ? (100 * of.buys) / of.trades : 0;
    this.bar.style.width = `${buys.toFixed(1)}%`;
    attribute(this.bar.parentElement, "data-empty", of.trades ? null : "yes");
    put(this.sides, `${count(of.buys)} / ${count(of.sells)}`);
  }

  #drawChanges(chosen) {
    for (const { window, value } of this.changes) {
      const change = this.data.windows[window]?.price_change_pct ?? null;
      show(value, change, `${ARROWS[trend(change)]} ${percent(change)}`.trim());
      value.className = trend(change);
      attribute(value.parentElement, "data-chosen", window === chosen ? "yes" : null);
    }
  }

  /** The sparkline of the last 24 hours; drawn again when one of its ends has moved. */
  drawSpark(points = this.points) {
    if (points === undefined) return;
    const day = this.data.windows[DAY];
    const ends = `${day?.open_usd} ${day?.close_usd} ${day?.price_change_pct}`;
    if (points === this.points && ends === this.ends) return;
    [this.points, this.ends] = [points, ends];
    this.spark.replaceChildren(sparkline(points, day, nameOf(this.data)));
  }

  drawLast(now) {
    const at = this.data.last_trade_at;
    put(this.last, at === null ? "–" : age(now - at));
  }
}

/** The rows of the list. `clock()` is the service's time. */
export class Rows {
  #rows = new Map();
  #window = "";

  constructor(body, clock) {
    this.body = body;
    this.clock = clock;
  }

  get tokens() {
    return [...this.#rows.keys()];
  }

  elementOf(tokenId) {
    return this.#rows.get(tokenId)?.element;
  }

  /** Shows these tokens in this order; with `hold`, existing rows keep their places. */
  list(all, window, hold) {
    this.#window = window;
    const wanted = new Set(all.map((each) => each.token_id));
    for (const data of all) this.take(data, !hold);
    if (hold) return;
    for (const [tokenId, row] of this.#rows) {
      if (wanted.has(tokenId)) continue;
      row.element.remove();
      this.#rows.delete(tokenId);
    }
    let place = this.body.firstElementChild;
    for (const tokenId of wanted) {
      const { element } = this.#rows.get(tokenId);
      if (element === place) place = place.nextElementSibling;
      else this.body.insertBefore(element, place);
    }
  }

  /** Takes the numbers of one token and drops them if they are older than the shown ones. */
  take(data, mayAdd = false) {
    let row = this.#rows.get(data.token_id);
    if (row === undefined) {
      if (!mayAdd) return;
      row = new Row(data);
      this.#rows.set(data.token_id, row);
      row.draw(this.#window, this.clock());
      return;
    }
    if (isNews(data, row.data)) row.data = data;
    paint(row, () => row.draw(this.#window, this.clock()));
  }

  drawAges() {
    for (const row of this.#rows.values()) row.drawLast(this.clock());
  }

  drawSpark(tokenId, points) {
    this.#rows.get(tokenId)?.drawSpark(points);
  }
}
