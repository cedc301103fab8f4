// The list's controls: window, sort, search and filters, kept in the address.

import { put } from "./dom.js";
import { visible } from "./names.js";

const form = document.getElementById("controls");
const filtersOn = document.getElementById("filters-on");
const windows = document.documentElement.dataset.windows.split(" ");
const asked_ = document.getElementById("list-asked");
const TYPED_MS = 250;
const MOST_FAULTS = 8;

const DEFAULTS = {
  window: windows.at(-1),
  sort: "volume_usd",
  order: "desc",
  q: "",
  chain: "",
  min_volume_usd: "",
  min_trades: "",
  limit: "50",
};
const FILTERS = ["chain", "min_volume_usd", "min_trades"];

const chosenFrom = (name) => (value) =>
  [...form.elements[name]].some((each) => (each.value ?? each) === value);
// A number input accepts 1e3 too.
const number = (most, fits) => (value) =>
  /^\d{1,16}(\.\d{1,18})?(e\d{1,2})?$/i.test(value) && Number(value) <= most && fits(Number(value));

// The valid values of each parameter in the address; any other falls back to the default.
const VALID = {
  window: (value) => windows.includes(value),
  sort: chosenFrom("sort"),
  order: chosenFrom("order"),
  q: (value) => value.length <= 128,
  chain: (value) => /^[a-z0-9][a-z0-9-]{0,31}$/.test(value),
  min_volume_usd: number(1e15, Number.isFinite),
  min_trades: number(Number.MAX_SAFE_INTEGER, Number.isInteger),
  limit: chosenFrom("limit"),
};
const LABELS = {
  min_volume_usd: "volume from", min_trades: "trades from", q: "search", limit: "rows",
};
// Tracking parameters that other sites add to links are not reported as mistakes.
const FOREIGN = /^(utm_|fbclid|gclid|ref$)/;

export class Controls {
  #timer = null;
  #chains = new Set();

  /** `changed()` is called when the reader changes a control. */
  constructor(changed) {
    this.changed = changed;
    form.onsubmit = (event) => event.preventDefault();
    form.oninput = ({ target }) => this.#later(target.matches("[type=search],[type=number]"));
    form.onreset = (event) => {
      // The browser resets the form after this event, which would undo input in between.
      event.preventDefault();
      this.#clear();
    };
    for (const head of document.querySelectorAll("th[data-sort]")) {
      head.firstElementChild.onclick = () => this.#sortBy(head.dataset);
    }
  }

  /** Reads the address's query. An invalid value falls back to the default and is reported. */
  read() {
    const asked = new URLSearchParams(location.search);
    const faults = [...asked.keys()]
      .filter((name) => !Object.hasOwn(DEFAULTS, name) && !FOREIGN.test(name))
      .map((name) => `there is no “${shortly(name)}”`);
    for (const name of Object.keys(DEFAULTS)) {
      let value = asked.get(name) ?? DEFAULTS[name];
      if (value !== "" && !VALID[name](value)) {
        faults.push(`${LABELS[name] ?? name} cannot be “${shortly(value)}”`);
        value = DEFAULTS[name];
      }
      if (name === "chain" && value) this.offer([value]);
      form.elements[name].value = value;
    }
    this.#explain(faults);
    this.#show();
  }

  #explain(faults) {
    const some = faults.slice(0, MOST_FAULTS).join("; ");
    put(asked_, faults.length ? `In this address, ${some}. The defaults are used instead.` : "");
    asked_.hidden = !faults.length;
    if (faults.length) history.replaceState(history.state, "", this.address);
  }

  /** The parameters of the channel `overview`. */
  get params() {
    const params = {};
    for (const [name, value] of this.#values()) {
      if (value === "") continue;
      params[name] = name === "limit" || name === "min_trades" ? Number(value) : value;
    }
    return params;
  }

  get window() {
    return form.elements.window.value;
  }

  get filtered() {
    return [...FILTERS, "q"].some((name) => form.elements[name].value !== "");
  }

  /** The page's address with the current values. */
  get address() {
    const chosen = this.#values().filter(([name, value]) => value !== DEFAULTS[name]);
    const query = new URLSearchParams(chosen).toString();
    return query ? `/?${query}` : "/";
  }

  /** Adds the chains that were seen to the choices. */
  offer(chains) {
    for (const chain of chains) {
      if (this.#chains.has(chain)) continue;
      this.#chains.add(chain);
      form.elements.chain.add(new Option(chain));
    }
  }

  #values() {
    return Object.keys(DEFAULTS).map((name) => [name, form.elements[name].value.trim()]);
  }

  // Sorting by a change selects the window of that change, which the other columns then show too.
  #sortBy({ sort, window = this.window }) {
    const { elements } = form;
    const same = elements.sort.value === sort && this.window === window;
    const turn = same && elements.order.value === "desc";
    elements.window.value = window;
    elements.sort.value = sort;
    elements.order.value = turn ? "asc" : "desc";
    this.#later(false);
  }

  #clear() {
    for (const [name, value] of Object.entries(DEFAULTS)) form.elements[name].value = value;
    this.#later(false);
  }

  #later(typing) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!form.checkValidity()) return form.reportValidity();
      this.#explain([]);
      this.#show();
      history.replaceState(null, "", this.address);
      this.changed();
    }, typing ? TYPED_MS : 0);
  }

  #show() {
    const { sort, order } = form.elements;
    for (const head of document.querySelectorAll("th[data-sort]")) {
      const { window = this.window } = head.dataset;
      const here = head.dataset.sort === sort.value && window === this.window;
      head.toggleAttribute("data-chosen", window === this.window);
      head.ariaSort = here ? (order.value === "desc" ? "descending" : "ascending") : "none";
    }
    const on = FILTERS.filter((name) => form.elements[name].value !== "").length;
    filtersOn.textContent = on ? ` (${on})` : "";
  }
}

const shortly = (text) => visible(text.length > 24 ? `${text.slice(0, 23)}…` : text);
