// What is listed: window, sort, search and filters, kept in the address.

const form = document.getElementById("controls");
const filtersOn = document.getElementById("filters-on");
const windows = document.documentElement.dataset.windows.split(" ");
const TYPED_MS = 250;

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

export class Controls {
  #timer = null;
  #chains = new Set();

  /** `changed()` is called when the reader chose something else. */
  constructor(changed) {
    this.changed = changed;
    form.onsubmit = (event) => event.preventDefault();
    form.oninput = ({ target }) => this.#later(target.matches("[type=search],[type=number]"));
    form.onreset = (event) => {
      // The browser's own reset comes behind this event, and would undo what is typed meanwhile.
      event.preventDefault();
      this.#clear();
    };
    for (const head of document.querySelectorAll("th[data-sort] button")) {
      head.onclick = () => this.#sortBy(head.parentElement.dataset.sort);
    }
  }

  /** Take the address's query; what it holds of nonsense is left for the service to refuse. */
  read() {
    const asked = new URLSearchParams(location.search);
    for (const name of Object.keys(DEFAULTS)) {
      const value = asked.get(name) ?? DEFAULTS[name];
      if (name === "chain" && value) this.offer([value]);
      form.elements[name].value = value;
    }
    this.#show();
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

  /** The page's address with what is chosen now. */
  get address() {
    const chosen = this.#values().filter(([name, value]) => value !== DEFAULTS[name]);
    const query = new URLSearchParams(chosen).toString();
    return query ? `/?${query}` : "/";
  }

  /** Chains that a reader may choose: those that were seen. */
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

  #sortBy(sort) {
    const { elements } = form;
    const turn = elements.sort.value === sort && elements.order.value === "desc";
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
      this.#show();
      history.replaceState(null, "", this.address);
      this.changed();
    }, typing ? TYPED_MS : 0);
  }

  #show() {
    const { sort, order } = form.elements;
    for (const head of document.querySelectorAll("th[data-sort]")) {
      const here = head.dataset.sort === sort.value;
      head.ariaSort = here ? (order.value === "desc" ? "descending" : "ascending") : "none";
    }
    const on = FILTERS.filter((name) => form.elements[name].value !== "").length;
    filtersOn.textContent = on ? ` (${on})` : "";
  }
}
