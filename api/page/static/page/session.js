// The token: the demo's own, or one that the reader showed, kept in this tab alone.

const KEY = "swaps.token";
const FRESH_MS = 60_000;

export const demo = document.documentElement.dataset.demo === "yes";

let kept = null;
let keptAt = -Infinity;

/** The token that was shown; null where there is none. */
export function shown() {
  try {
    kept ??= sessionStorage.getItem(KEY);
  } catch {
    // Storage is switched off: the token lives as long as the page.
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

/** A token for the next connection; throws where the demo's cannot be had. */
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

/** What REST could not give: `code` is that of its problem document. */
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
