// Runs before the first paint, so that the page does not flash in the wrong theme.
"use strict";
try {
  const chosen = localStorage.getItem("swaps.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is disabled: use the system's theme.
}
