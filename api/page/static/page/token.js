// One token: price, candles, trades and all windows.

import { drawCandleTable, onCandleTable } from "./candle-table.js";
import { Candles } from "./candles.js";
import { Chart } from "./chart.js";
import { attribute, paint, put, show } from "./dom.js";
import { ARROWS, age, nameOf, percent, price, trend } from "./format.js";
import { Trades } from "./trades.js";
import { clearWindows, drawWindows } from "./windows.js";

const element = (name) => document.getElementById(name);
const section = element("token");
const AGE_MS = 1_000;
const FIRST_INTERVAL = "15m";

// One canvas for all tokens: it is costly to make.
let chart = null;

export class TokenView {
  #tokenId = null;
  #data = null;
  #stats = null;
  #trades = null;
  #candles = null;
  #timer = null;
  #fit = true;

  constructor(live) {
    this.live = live;
    for (const input of section.querySelectorAll("[name=interval]")) {
      input.onchange = () => this.#follow(input.value);
    }
    onCandleTable(() => this.#drawChart(true));
  }

  open(tokenId, moved) {
    this.close();
    this.#tokenId = tokenId;
    this.#data = null;
    section.hidden = false;
    clearWindows();
    this.#name();
    this.#note("Waiting for its numbers.");
    put(element("token-price"), "–");
    element("token-price").value = "";
    put(element("token-change"), "");
    this.#stats = this.live.subscribe({
      channel: "token_stats",
      tokens: [tokenId],
      onUpdate: ({ data }) => this.#take(data),
      onError: (error) => this.#note(error.code === "token_not_found" ? "No such token." : error.message),
    });
    this.#trades = new Trades(this.live, tokenId);
    const asked = section.querySelector("[name=interval]:checked");
    const interval = asked?.value ?? FIRST_INTERVAL;
    section.querySelector(`[name=interval][value="${interval}"]`).checked = true;
    this.#follow(interval);
    this.#timer = setInterval(() => this.#drawAge(), AGE_MS);
    if (moved) {
      scrollTo(0, 0);
      element("token-title").focus({ preventScroll: true });
    }
  }

  close() {
    if (this.#tokenId === null) return;
    this.#tokenId = null;
    section.hidden = true;
    clearInterval(this.#timer);
    this.#stats.close();
    this.#trades.close();
    this.#candles.close();
  }

  #take(data) {
    this.#data = data;
    paint(this, () => this.#draw());
  }

  #draw() {
    const data = this.#data;
    if (data === null) {
      clearWindows();
      return this.#note("No trade of this token is known.");
    }
    this.#name();
    show(element("token-price"), data.last_price_usd, price(data.last_price_usd));
    const day = Object.entries(data.windows).at(-1);
    const change = day?.[1].price_change_pct;
    put(element("token-change"), day ? `${ARROWS[trend(change)]} ${percent(change)} in ${day[0]}` : "");
    element("token-change").className = trend(change);
    attribute(section, "data-stale", data.stale ? "yes" : null);
    drawWindows(data);
    this.#drawAge();
  }

  #drawAge() {
    if (!this.#data) return;
    const { last_trade_at: at, stale } = this.#data;
    const traded = at === null ? "No trade yet." : `Last trade ${age(this.live.now - at)} ago.`;
    const text = stale ? `${traded} These numbers are old: their aggregator is silent.` : traded;
    // Once a second is too often to be read aloud.
    attribute(element("token-note"), "aria-live", "off");
    put(element("token-note"), text);
  }

  #name() {
    const [chain, ...rest] = this.#tokenId.split(":");
    const token = rest.join(":");
    const data = this.#data ?? { token, symbol: null };
    const name = nameOf(data);
    put(element("token-title"), data.name ? `${name} · ${data.name}` : name);
    put(element("token-chain"), chain);
    put(element("token-address"), [token, ...(data.flags ?? [])].join(" · "));
    document.title = `${name} ${data.last_price_usd ? price(data.last_price_usd) : ""} · Swaps`;
  }

  #note(text) {
    attribute(element("token-note"), "aria-live", "polite");
    put(element("token-note"), text);
  }

  #follow(interval) {
    this.#candles?.close();
    this.#fit = true;
    element("chart-note").textContent = "";
    this.#candles = new Candles(this.live, this.#tokenId, interval, {
      onChange: ({ all }) => this.#drawChart(all),
      onFault: (error) => this.#chartFault(error),
    });
  }

  async #drawChart(all) {
    chart ??= Chart.make(() => this.#older());
    const made = await chart;
    const { interval } = this.#candles;
    // A whole drawing that waits must not be replaced by one of the newest candles alone.
    this.#whole ||= all;
    paint(chart, () => {
      const found = this.#candles.all;
      if (this.#whole) made.set(found, this.#fit);
      else made.update(found);
      this.#whole = false;
      if (found.length) this.#fit = false;
      drawCandleTable(found, element("token-title").textContent, interval);
    });
  }

  #whole = true;

  #older() {
    if (!this.#fit) this.#candles?.older();
  }

  #chartFault(error) {
    const text =
      error === null
        ? ""
        : error.status === 403
          ? "Your token lacks history:read: the chart reaches back as far as the live candles do."
          : error.status === 404
            ? ""
            : "The archive is not available now: the chart shows live candles, 48 hours back at most.";
    put(element("chart-note"), text);
  }
}
