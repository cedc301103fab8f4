// A sparkline of the last 24 hours: from the window's open over the hourly closes to now.

import { UNKNOWN, percent, price, trend } from "./format.js";
import { isolated } from "./names.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 30;
const EDGE = 3;

/**
 * `closes` are {at, value}, at from 0 to 1, oldest first. The ends and the colour of the line come
 * from `day`, the window of 24 h, so that they never contradict the change beside it. Returns a text
 * if there is no line.
 */
export function sparkline(closes, day, name) {
  const points = between(closes, day);
  if (points.length < 2) return UNKNOWN;
  const values = points.map((each) => each.value);
  const low = Math.min(...values);
  const span = Math.max(...values) - low;
  const x = (each) => (EDGE + each.at * (WIDTH - 2 * EDGE)).toFixed(1);
  const y = (each) => {
    const share = span === 0 ? 0.5 : (each.value - low) / span;
    return (HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE)).toFixed(1);
  };
  const line = points.map((each) => `${x(each)},${y(each)}`).join("L");
  const first = points[0];
  const last = points.at(-1);
  const change = day?.price_change_pct ?? (first.value ? (last.value / first.value - 1) * 100 : null);
  const ends = `from ${price(first.value)} to ${price(last.value)}`;
  const svg = node("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    class: `sparkline ${trend(change)}`,
    role: "img",
    "aria-label": `${isolated(name)} in 24 hours: ${ends}, ${percent(change)}`,
  });
  svg.append(
    node("path", { class: "area", d: `M${x(first)},${HEIGHT}L${line}L${x(last)},${HEIGHT}Z` }),
    node("path", { class: "line", d: `M${line}` }),
    node("circle", { cx: x(last), cy: y(last), r: 2 }),
  );
  return svg;
}

function between(closes, day) {
  if (!closes.length || !day?.open_usd || !day.close_usd) return closes;
  const begin = { at: Math.max(0, closes[0].at - 1 / 24), value: Number(day.open_usd) };
  const end = { at: closes.at(-1).at, value: Number(day.close_usd) };
  return [begin, ...closes.slice(0, -1), end];
}

function node(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
