// A small line of the last day's closes, one point an hour that had a trade.

import { UNKNOWN, price, side } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 30;
const EDGE = 3;

/** `points` are {at, value}, at from 0 to 1, oldest first; a text where there is no line. */
export function sparkline(points, name) {
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
  const svg = node("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    class: `sparkline ${side(last.value - first.value)}`,
    role: "img",
    "aria-label": `${name} in 24 hours: from ${price(first.value)} to ${price(last.value)}`,
  });
  svg.append(
    node("path", { class: "area", d: `M${x(first)},${HEIGHT}L${line}L${x(last)},${HEIGHT}Z` }),
    node("path", { class: "line", d: `M${line}` }),
    node("circle", { cx: x(last), cy: y(last), r: 2 }),
  );
  return svg;
}

function node(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
