// The switch between the system's theme, light and dark; the choice is kept in this browser.

const NEXT = { auto: "light", light: "dark", dark: "auto" };
const NAMES = { auto: "automatic", light: "light", dark: "dark" };
const root = document.documentElement;
const button = document.getElementById("theme");

/** Calls `listener` when the colours may have changed. */
export function onTheme(listener) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", listener);
  new MutationObserver(listener).observe(root, { attributeFilter: ["data-theme"] });
}

/** A colour of the style sheet as the browser resolves it now, for painting on a canvas. */
export function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  probe.hidden = true;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const chosen = () => root.dataset.theme ?? "auto";

function show() {
  const name = chosen();
  button.textContent = `Theme: ${name}`;
  button.title = name === "auto" ? "Light or dark as the system is" : "";
  button.setAttribute("aria-label", `Theme: ${NAMES[name]}`);
}

button.addEventListener("click", () => {
  const next = NEXT[chosen()];
  if (next === "auto") delete root.dataset.theme;
  else root.dataset.theme = next;
  try {
    if (next === "auto") localStorage.removeItem("swaps.theme");
    else localStorage.setItem("swaps.theme", next);
  } catch {
    // Storage is disabled: the choice lasts as long as the page.
  }
  show();
});
show();
