// The connection to the service and the freshness of its numbers.

import { SwapsClient } from "../clients/swaps.js";

/**
 * One client, subscribed to the channel `status`. Events: "change" (a property below has changed),
 * "refused" (detail: why the service no longer accepts the token). `refusal` is the reason of a
 * refused attempt that the client will repeat, or null.
 */
export class Live extends EventTarget {
  #receivedAt = null;
  #wasOpen = false;

  constructor(token) {
    super();
    this.status = null;
    this.refusal = null;
    this.client = new SwapsClient({ url: "/", token, backoff: { longestMs: 5_000 } });
    this.client.addEventListener("change", () => this.#dispatchChange());
    this.client.addEventListener("error", ({ detail }) => {
      this.dispatchEvent(new CustomEvent("refused", { detail }));
    });
    this.client.addEventListener("refused", ({ detail }) => {
      this.refusal = detail;
      this.#dispatchChange();
    });
    this.client.subscribe({
      channel: "status",
      onUpdate: ({ data }) => {
        this.status = data;
        this.#receivedAt = performance.now();
        this.#dispatchChange();
      },
      onError: (error) => this.dispatchEvent(new CustomEvent("refused", { detail: error })),
    });
  }

  /** "connecting", "live", "stale" (as the service reports) or "lost" (no connection). */
  get phase() {
    if (this.client.state !== "open") return this.#wasOpen ? "lost" : "connecting";
    if (this.status === null) return "connecting";
    return this.status.stale || !this.status.connected ? "stale" : "live";
  }

  /** The age of the oldest number, in ms; null if unknown. */
  get age() {
    if (this.#receivedAt === null) return null;
    const ages = this.status.partitions.map((each) => each.age_ms);
    if (!ages.length || ages.includes(null)) return null;
    return Math.max(...ages) + performance.now() - this.#receivedAt;
  }

  /** The service's clock in ms, so that ages do not depend on this machine's clock. */
  get now() {
    const instants = (this.status?.partitions ?? [])
      .filter((each) => each.as_of !== null && each.age_ms !== null)
      .map((each) => each.as_of + each.age_ms);
    if (!instants.length) return Date.now();
    return Math.max(...instants) + performance.now() - this.#receivedAt;
  }

  subscribe(request) {
    return this.client.subscribe(request);
  }

  close() {
    this.client.close();
  }

  #dispatchChange() {
    if (this.client.state === "open") {
      this.#wasOpen = true;
      this.refusal = null;
    }
    this.dispatchEvent(new CustomEvent("change"));
  }
}
