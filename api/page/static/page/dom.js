// Helpers for elements, and one animation frame for all painting.

/** Creates an element with properties (`class`, `data`, `on`, or an attribute) and children. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Sets the text if it differs, without a new node. */
export function put(element, text) {
  const node = element.firstChild;
  if (node === null) element.append(text);
  else if (node.nodeValue !== text) node.nodeValue = text;
}

export function attribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

const waiting = new Map();
let asked = false;

/** Paints in the next frame; a later paint with the same key replaces an earlier one. */
export function paint(key, act) {
  waiting.set(key, act);
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    const acts = [...waiting.values()];
    waiting.clear();
    for (const each of acts) each();
  });
}

const still = matchMedia("(prefers-reduced-motion: reduce)");
const FLASHES = { up: "var(--flash-up)", down: "var(--flash-down)" };

/** Flashes a cell whose number rose or fell, unless the reader prefers reduced motion. */
export function flash(element, direction) {
  if (still.matches || !direction) return;
  for (const each of element.getAnimations()) each.cancel();
  element.animate([{ backgroundColor: FLASHES[direction] }, {}], { duration: 700, easing: "ease-out" });
}

/** Writes a `<data>` with its exact value and a text; flashes if the number changed. */
export function show(element, value, text) {
  const exact = value === null || value === undefined ? "" : String(value);
  const before = element.value;
  if (before !== exact) {
    element.value = exact;
    if (before !== "" && exact !== "") {
      flash(element.parentElement, Number(exact) > Number(before) ? "up" : "down");
    }
  }
  put(element, text);
}
