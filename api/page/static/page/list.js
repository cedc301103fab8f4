// The list of top tokens. Its order and totals come once a second from the channel `overview`; the
// rows on the screen are followed more closely (watched.js).

import { Controls } from "./controls.js";
import { paint, put } from "./dom.js";
import { count, usd } from "./format.js";
import { Rows } from "./rows.js";
import { Watched } from "./watched.js";

const ORDER_MS = 1_000;
const section = document.getElementById("list");
const body = document.getElementById("rows");
const note = document.getElementById("list-note");
const fault = document.getElementById("list-fault");
const totals = document.getElementById("totals");
const hovers = matchMedia("(hover: hover)");

export class ListView {
  #subscription = null;
  #ages = null;
  #scroll = 0;
  #fresh = true;

  constructor(live) {
    this.live = live;
    body.replaceChildren();
    this.rows = new Rows(body, () => live.now);
    this.watched = new Watched(live, this.rows);
    this.controls = new Controls(() => this.#subscribe());
  }

  /** The list's address as it was chosen. */
  get address() {
    return this.controls.address;
  }

  open(moved) {
    document.title = "Top tokens · Swaps";
    section.hidden = false;
    this.controls.read();
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
    this.watched.close();
  }

  #subscribe() {
    const before = this.#subscription;
    const { window, params } = this.controls;
    this.#fresh = true;
    fault.hidden = true;
    this.#subscription = this.live.subscribe({
      channel: "overview",
      params,
      intervalMs: ORDER_MS,
      onUpdate: ({ data }) => paint(this, () => this.#draw(data, window)),
      onError: (error) => {
        fault.textContent = error.message;
        fault.hidden = false;
      },
    });
    before?.close();
  }

  #draw(data, window) {
    if (window !== this.controls.window || this.#subscription === null) return;
    // A row must not run away from the pointer or the focus that is on it.
    const hold = !this.#fresh && isHeld();
    this.#fresh = false;
    this.controls.offer(data.tokens.map((each) => each.chain));
    this.rows.list(data.tokens, window, hold);
    this.watched.follow();
    drawTotals(data.totals);
    put(note, this.#said(data, hold));
  }

  #said(data, hold) {
    if (!data.tokens.length) {
      return this.controls.filtered ? "No token matches." : "No trade in this window yet.";
    }
    const shown = Math.min(data.tokens.length, data.totals.tokens);
    const all = shown === data.totals.tokens ? "" : " Search or filter for the others.";
    const held = hold ? " The order is held while you are in the list." : "";
    return `${shown} of ${count(data.totals.tokens)} tokens.${all}${held}`;
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
