// Turns the codes of refused connections (docs/websocket.md) into sentences.

import { count } from "./format.js";
import { visible } from "./names.js";

const SENTENCES = {
  too_many_connections:
    "Too many connections are open with this token: close another tab or program that uses it.",
  origin_not_allowed:
    "The service does not allow this page's origin: its operator must add it to WS_ALLOWED_ORIGINS.",
  rate_limited: "This token is over its rate: too much was asked for in a short time.",
};

/** `code` is stable; `reason` is the service's text, used for an unknown code. */
export function refusalText({ code, reason, attempts }) {
  const why = visible(String(reason || code || "it gives no reason"));
  const sentence = SENTENCES[code] ?? SENTENCES[reason] ?? `The service refuses the connection: ${why}.`;
  const tried = attempts > 1 ? ` (${count(attempts)} attempts so far)` : "";
  return `${sentence} Trying again${tried}.`;
}
