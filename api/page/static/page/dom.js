// The few things that this page does with elements, and one frame for all that is painted.

/** An element with properties (`class`, `data`, `on`, or an attribute) and children. */
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

/** Sets the text where it differs, without making a new node. */
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

/** Paint in the next frame; a later paint of the same key takes the place of an earlier one. */
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

/** Lights a cell whose number went up or down, unless the reader wants no motion. */
export function flash(element, direction) {
  if (still.matches || !direction) return;
  for (const each of element.getAnimations()) each.cancel();
  element.animate([{ backgroundColor: FLASHES[direction] }, {}], { duration: 700, easing: "ease-out" });
}

/** A `<data>` whose exact value is beside the text; flashes where the number moved. */
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
