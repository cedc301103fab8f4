// One token: price, candles, trades and all windows.

import { addressOf, faultOf } from "./addresses.js";
import { drawCandleTable, onCandleTable } from "./candle-table.js";
import { Candles, INTERVALS_MS } from "./candles.js";
import { Chart } from "./chart.js";
import { attribute, paint, put, show } from "./dom.js";
import { ARROWS, age, percent, price, trend } from "./format.js";
import { nameOf, titled, visible, warningOf } from "./names.js";
import { Trades } from "./trades.js";
import { clearWindows, drawWindows } from "./windows.js";

const element = (name) => document.getElementById(name);
const section = element("token");
const AGE_MS = 1_000;
const FIRST_INTERVAL = "15m";
const NO_PRICE = "No trade of this token has a price, so there are no candles.";

// One canvas for all tokens, because creating one is expensive.
let chart = null;

export class TokenView {
  #tokenId = null;
  #data = null;
  #known = false;
  #newest = null;
  #stats = null;
  #trades = null;
  #candles = null;
  #timer = null;
  #fit = true;

  constructor(live) {
    this.live = live;
    for (const input of section.querySelectorAll("[name=interval]")) {
      input.onchange = () => this.#choose(input.value);
    }
    onCandleTable(() => this.#drawChart(true));
  }

  open(tokenId, moved) {
    this.close();
    this.#tokenId = tokenId;
    this.#data = null;
    this.#known = false;
    this.#newest = null;
    section.hidden = false;
    clearWindows();
    this.#name();
    put(element("token-price"), "–");
    element("token-price").value = "";
    put(element("token-change"), "");
    attribute(section, "data-stale", null);
    const fault = faultOf(tokenId);
    section.querySelector(".token-grid").hidden = fault !== "";
    if (moved) {
      scrollTo(0, 0);
      element("token-title").focus({ preventScroll: true });
    }
    if (fault) {
      put(element("token-asked"), "");
      return this.#note(fault);
    }
    this.#note("Waiting for its numbers.");
    this.#stats = this.live.subscribe({
      channel: "token_stats",
      tokens: [tokenId],
      onUpdate: ({ data }) => this.#take(data),
      onError: ({ code, message }) =>
        this.#note(code === "token_not_found" ? "No such token." : message),
    });
    this.#trades = new Trades(this.live, tokenId, (newest) => this.#traded(newest));
    this.#follow(this.#interval());
    this.#timer = setInterval(() => this.#drawAge(), AGE_MS);
  }

  close() {
    if (this.#tokenId === null) return;
    this.#tokenId = null;
    section.hidden = true;
    clearInterval(this.#timer);
    this.#stats?.close();
    this.#trades?.close();
    this.#candles?.close();
    this.#stats = this.#trades = this.#candles = null;
  }

  #take(data) {
    this.#data = data;
    this.#known = true;
    paint(this, () => this.#draw());
  }

  #traded(newest) {
    this.#newest = newest;
    this.#drawAge();
  }

  #draw() {
    const data = this.#data;
    if (this.#tokenId === null) return;
    if (data === null) {
      clearWindows();
      return this.#drawAge();
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
    if (!this.#known) return;
    // A token without recent trades is not on the board; the archive's trades are shown below.
    const at = this.#data?.last_trade_at ?? this.#newest?.timestamp ?? null;
    const quiet = this.#data === null && at !== null ? " It is not in any window now." : "";
    const traded = at === null ? this.#unknown() : `Last trade ${age(this.live.now - at)} ago.${quiet}`;
    const stale = this.#data?.stale ?? false;
    const text = stale ? `${traded} These numbers are old: their aggregator is silent.` : traded;
    // A screen reader must not announce every update.
    attribute(element("token-note"), "aria-live", this.#data === null ? "polite" : "off");
    put(element("token-note"), text);
  }

  #unknown() {
    return this.#data === null ? "No trade of this token is known." : "No trade yet.";
  }

  #name() {
    const [chain, ...rest] = this.#tokenId.split(":");
    const token = rest.join(":");
    const data = this.#data ?? { token: token || this.#tokenId, symbol: null };
    const name = nameOf(data);
    const whole = data.name ? `${name} · ${visible(data.name)}` : name;
    put(element("token-title"), whole);
    attribute(element("token-title"), "title", `${whole} ${warningOf(data.symbol)}`.trim());
    put(element("token-chain"), token ? visible(chain) : "");
    element("token-chain").hidden = !token;
    const flags = (data.flags ?? []).map(visible);
    put(element("token-address"), [visible(token), ...flags].join(" · "));
    put(element("token-warning"), warningOf(data.symbol));
    const shown = data.last_price_usd ? ` ${price(data.last_price_usd)}` : "";
    document.title = `${titled(name)}${shown} · Swaps`;
  }

  #note(text) {
    attribute(element("token-note"), "aria-live", "polite");
    put(element("token-note"), text);
  }

  /** The interval of the address; an invalid one falls back to the first and is reported. */
  #interval() {
    const asked = new URLSearchParams(location.search).get("interval");
    const known = asked === null || Object.hasOwn(INTERVALS_MS, asked);
    const chosen = section.querySelector("[name=interval]:checked")?.value;
    const interval = (known ? asked ?? chosen : null) ?? FIRST_INTERVAL;
    section.querySelector(`[name=interval][value="${interval}"]`).checked = true;
    const wanted = visible((asked ?? "").slice(0, 24));
    const fault = `There are no candles of “${wanted}”, which the address asks for. These are of `;
    put(element("token-asked"), known ? "" : `${fault}${interval}.`);
    this.#keep(interval);
    return interval;
  }

  #choose(interval) {
    put(element("token-asked"), "");
    this.#keep(interval);
    this.#follow(interval);
  }

  #keep(interval) {
    const query = interval === FIRST_INTERVAL ? "" : `?interval=${interval}`;
    history.replaceState(history.state, "", `${addressOf(this.#tokenId)}${query}`);
  }

  #follow(interval) {
    this.#candles?.close();
    this.#fit = true;
    this.#whole = true;
    this.#candles = new Candles(this.live, this.#tokenId, interval, {
      onChange: ({ all }) => this.#drawChart(all),
      onFault: (error) => this.#chartFault(error),
    });
    this.#chartFault(null);
  }

  async #drawChart(all) {
    chart ??= Chart.make(() => this.#older());
    const made = await chart;
    // A pending full redraw must not be replaced by a redraw of the newest candles only.
    this.#whole ||= all;
    paint(chart, () => {
      const candles = this.#candles;
      if (candles === null) return;
      const found = candles.all;
      if (this.#whole) made.set(found, candles.length, this.#fit);
      else made.update(found);
      this.#whole = false;
      if (found.length) this.#fit = false;
      drawCandleTable(found, element("token-title").textContent, candles.interval, candles.length);
      this.#explainChart();
      if (made.nearOldest) candles.older();
    });
  }

  #whole = true;
  #fault = null;

  #older() {
    if (!this.#fit) this.#candles?.older();
  }

  #chartFault(error) {
    this.#fault = error;
    this.#explainChart();
  }

  #explainChart() {
    put(element("chart-note"), this.#chartText());
  }

  #chartText() {
    const { status } = this.#fault ?? {};
    if (status === 403) {
      return "Your token lacks history:read: the chart reaches back as far as the live candles do.";
    }
    if (status === 404) return "There are no candles of this token.";
    if (this.#fault !== null) {
      return "The archive is not available now: the chart shows live candles, 48 hours back at most.";
    }
    const candles = this.#candles;
    if (candles === null) return "";
    if (candles.all.length) return candles.complete ? "There are no older candles." : "";
    return candles.complete ? NO_PRICE : "Waiting for its candles.";
  }
}
