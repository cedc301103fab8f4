// The token: the demo's, or the one that the reader entered, kept only in this tab.

const KEY = "swaps.token";
const FRESH_MS = 60_000;

export const demo = document.documentElement.dataset.demo === "yes";

let kept = null;
let keptAt = -Infinity;

/** The token that the reader entered, or null. */
export function shown() {
  try {
    kept ??= sessionStorage.getItem(KEY);
  } catch {
    // Storage is disabled: the token lives as long as the page.
  }
  return kept;
}

export function keep(token) {
  kept = token;
  try {
    if (token === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch {
    // As above.
  }
}

/** A token for the next connection; throws if the demo's token is not available. */
export async function freshToken() {
  if (!demo) return shown();
  const answer = await fetch("/demo-token", { cache: "no-store" });
  if (!answer.ok) throw new Error(`/demo-token answered ${answer.status}`);
  ({ token: kept } = await answer.json());
  keptAt = performance.now();
  return kept;
}

async function bearer() {
  const old = kept === null || performance.now() - keptAt > FRESH_MS;
  return demo && old ? freshToken() : shown();
}

/** A failed REST request; `code` is that of its problem document. */
export class Unavailable extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

/** The JSON of a GET; throws Unavailable. */
export async function get(path, signal) {
  let answer;
  try {
    const headers = { Authorization: `Bearer ${await bearer()}` };
    answer = await fetch(path, { headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unavailable(0, "unreachable", "The service cannot be reached.");
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  throw new Unavailable(answer.status, body.code ?? "", body.detail ?? `status ${answer.status}`);
}
