// The list of top tokens. Its order and totals come once a second from the channel `overview`; "Show
// more" adds rows by REST. Rows on the screen are updated more often (watched.js).

import { Controls } from "./controls.js";
import { paint, put } from "./dom.js";
import { count, usd } from "./format.js";
import { Further } from "./further.js";
import { Rows } from "./rows.js";
import { Watched } from "./watched.js";

const ORDER_MS = 1_000;
const section = document.getElementById("list");
const body = document.getElementById("rows");
const note = document.getElementById("list-note");
const fault = document.getElementById("list-fault");
const more = document.getElementById("show-more");
const totals = document.getElementById("totals");
const hovers = matchMedia("(hover: hover)");

export class ListView {
  #subscription = null;
  #ages = null;
  #scroll = 0;
  #fresh = true;
  #data = null;
  #window = "";

  constructor(live) {
    this.live = live;
    body.replaceChildren();
    this.rows = new Rows(body, () => live.now);
    this.watched = new Watched(live, this.rows);
    this.further = new Further(() => this.#draw());
    this.controls = new Controls(() => {
      this.further.reset();
      this.#subscribe();
    });
    more.onclick = () => this.further.more(this.#data.tokens.length);
  }

  /** The list's address with the chosen values. */
  get address() {
    return this.controls.address;
  }

  open(moved) {
    document.title = "Top tokens · Swaps";
    section.hidden = false;
    const before = this.controls.address;
    this.controls.read();
    if (this.controls.address !== before) this.further.reset();
    this.#subscribe();
    this.#ages = setInterval(() => this.rows.drawAges(), ORDER_MS);
    if (!moved) return;
    document.getElementById("list-title").focus({ preventScroll: true });
    scrollTo(0, this.#scroll);
  }

  close() {
    if (section.hidden) return;
    this.#scroll = scrollY;
    section.hidden = true;
    clearInterval(this.#ages);
    this.#subscription?.close();
    this.#subscription = null;
    this.further.close();
    this.watched.close();
  }

  #subscribe() {
    const before = this.#subscription;
    const { window, params } = this.controls;
    this.#fresh = true;
    fault.hidden = true;
    this.further.follow(params);
    this.#subscription = this.live.subscribe({
      channel: "overview",
      params,
      intervalMs: ORDER_MS,
      onUpdate: ({ data }) => {
        [this.#data, this.#window] = [data, window];
        paint(this, () => this.#draw());
      },
      onError: (error) => {
        fault.textContent = error.message;
        fault.hidden = false;
        put(note, "");
      },
    });
    before?.close();
  }

  #draw() {
    const [data, window] = [this.#data, this.#window];
    if (window !== this.controls.window || this.#subscription === null || data === null) return;
    // A row with the pointer or the focus on it must not move.
    const hold = !this.#fresh && isHeld();
    this.#fresh = false;
    const tokens = this.further.below(data.tokens);
    this.controls.offer(tokens.map((each) => each.chain));
    this.rows.list(tokens, window, hold);
    this.watched.follow();
    drawTotals(data.totals);
    const all = data.totals.tokens;
    more.hidden = tokens.length >= all || !this.further.canGrow;
    put(note, this.#said(Math.min(tokens.length, all), all, hold));
  }

  #said(shown, all, hold) {
    if (!shown) return this.controls.filtered ? "No token matches." : "No trade in this window yet.";
    const others = shown < all && !this.further.canGrow ? " Search or filter for the others." : "";
    const held = hold ? " The order is held while you are in the list." : "";
    return `${count(shown)} of ${count(all)} tokens.${others}${this.further.fault}${held}`;
  }
}

const isHeld = () =>
  body.matches(":focus-within") || (hovers.matches && body.matches(":hover"));

function drawTotals(found) {
  for (const element of totals.querySelectorAll("[data-total]")) {
    const name = element.dataset.total;
    const value = found[name];
    put(element, name.endsWith("_usd") ? usd(value) : count(value));
    element.title = value;
  }
  const all = Number(found.volume_usd);
  const share = all ? (100 * Number(found.buy_volume_usd)) / all : 50;
  totals.querySelector(".bar i").style.width = `${share.toFixed(1)}%`;
}
