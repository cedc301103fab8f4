// The connection to the service and what is known of its freshness.

import { SwapsClient } from "../clients/swaps.js";

/**
 * One client, and the channel `status`. Events: "change" (something of the below is new), "refused"
 * (detail: why the token is taken no more).
 * `refusal` is why the last attempt was refused, where another one follows; else null.
 */
export class Live extends EventTarget {
  #heardAt = null;
  #wasOpen = false;

  constructor(token) {
    super();
    this.status = null;
    this.refusal = null;
    this.client = new SwapsClient({ url: "/", token, backoff: { longestMs: 5_000 } });
    this.client.addEventListener("change", () => this.#tell());
    this.client.addEventListener("error", ({ detail }) => {
      this.dispatchEvent(new CustomEvent("refused", { detail }));
    });
    this.client.addEventListener("refused", ({ detail }) => {
      this.refusal = detail;
      this.#tell();
    });
    this.client.subscribe({
      channel: "status",
      onUpdate: ({ data }) => {
        this.status = data;
        this.#heardAt = performance.now();
        this.#tell();
      },
      onError: (error) => this.dispatchEvent(new CustomEvent("refused", { detail: error })),
    });
  }

  /** "connecting", "live", "stale" (the service says so) or "lost" (nobody says anything). */
  get phase() {
    if (this.client.state !== "open") return this.#wasOpen ? "lost" : "connecting";
    if (this.status === null) return "connecting";
    return this.status.stale || !this.status.connected ? "stale" : "live";
  }

  /** How old the oldest number may be, in ms; null where that is not known. */
  get age() {
    if (this.#heardAt === null) return null;
    const ages = this.status.partitions.map((each) => each.age_ms);
    if (!ages.length || ages.includes(null)) return null;
    return Math.max(...ages) + performance.now() - this.#heardAt;
  }

  /** The service's clock, so that ages do not depend on this machine's. */
  get now() {
    const instants = (this.status?.partitions ?? [])
      .filter((each) => each.as_of !== null && each.age_ms !== null)
      .map((each) => each.as_of + each.age_ms);
    if (!instants.length) return Date.now();
    return Math.max(...instants) + performance.now() - this.#heardAt;
  }

  subscribe(request) {
    return this.client.subscribe(request);
  }

  close() {
    this.client.close();
  }

  #tell() {
    if (this.client.state === "open") {
      this.#wasOpen = true;
      this.refusal = null;
    }
    this.dispatchEvent(new CustomEvent("change"));
  }
}
