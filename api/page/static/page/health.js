// The strip at the top and the banner: whether the numbers are current.

import { age, count } from "./format.js";
import { attribute, put } from "./dom.js";
import { refusalText } from "./refusals.js";

const REFRESH_MS = 500;
const SHOWN_SLOW_AFTER_MS = 2_000;
const NAMES = { connecting: "connecting", live: "live", stale: "stale", lost: "reconnecting" };
const FRESH = { connecting: "unknown", live: "yes", stale: "no", lost: "no" };

const element = (name) => document.getElementById(name);
const begunAt = performance.now();

/** Shows the health of `live` until the page ends. */
export function watchHealth(live) {
  const draw = () => {
    const { phase, status } = live;
    document.body.dataset.fresh = FRESH[phase];
    put(element("health-connection").lastElementChild, NAMES[phase]);
    put(element("health-age"), ageText(live.age));
    const partitions = status?.partitions ?? [];
    const lags = partitions.map((each) => each.lag).filter((each) => each !== null);
    const lag = lags.reduce((sum, each) => sum + each, 0);
    // The status from before the connection was lost may no longer hold.
    const known = status !== null && phase !== "lost";
    put(element("health-lag"), known && lags.length ? `${count(lag)} ${lag === 1 ? "swap" : "swaps"}` : "–");
    const fresh = partitions.filter((each) => !each.stale).length;
    put(element("health-partitions"), known ? `${fresh} of ${partitions.length} fresh` : "–");
    drawBanner(phase, status, live.age, live.refusal);
  };
  live.addEventListener("change", draw);
  draw();
  return setInterval(draw, REFRESH_MS);
}

/** Shows a sentence in the banner while there is no connection; an empty one hides it. */
export function sayFault(text) {
  put(element("banner-said"), text);
  put(element("banner-age"), "");
  element("banner").hidden = !text;
  attribute(element("banner"), "data-phase", "lost");
}

function ageText(ms) {
  if (ms === null) return "–";
  return ms < 10_000 ? `${(ms / 1_000).toFixed(1)} s` : age(ms);
}

function drawBanner(phase, status, ms, refusal) {
  const refused = refusal !== null && (phase === "lost" || phase === "connecting");
  const said = refused ? refusalText(refusal) : sentence(phase, status);
  // Screen readers announce only a change of the sentence, not the running age beside it.
  put(element("banner-said"), said);
  put(element("banner-age"), said && ms !== null ? `The oldest numbers are ${age(ms)} old.` : "");
  element("banner").hidden = !said;
  attribute(element("banner"), "data-phase", refused ? "lost" : phase);
}

function sentence(phase, status) {
  if (phase === "live") return "";
  if (phase === "lost") return "Connection lost. Trying again; the numbers stand still until then.";
  if (phase === "connecting") {
    return performance.now() - begunAt > SHOWN_SLOW_AFTER_MS ? "Connecting to the service." : "";
  }
  if (!status.connected) {
    return "The web node hears nothing from the aggregators (NATS is away); numbers stand still.";
  }
  const old = status.partitions.filter((each) => each.stale);
  if (!old.length) return "Some numbers are missing: not every partition is known yet.";
  const rebuilding = old.filter((each) => each.state === "rebuilding");
  const all = old.length === status.partitions.length;
  const which = all ? "every partition" : `partition ${old.map((each) => each.partition).join(", ")}`;
  if (rebuilding.length === old.length) {
    return `The aggregator is catching up (${which}); until then the numbers shown are old.`;
  }
  return old.every((each) => each.state === "late")
    ? `The numbers arrive late (${which}); they are old and are shown grey.`
    : `The aggregator is silent (${which}); its numbers stand still and are shown grey.`;
}
