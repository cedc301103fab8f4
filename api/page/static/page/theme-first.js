// Runs before the first paint, so that a chosen theme does not flash the other one.
"use strict";
try {
  const chosen = localStorage.getItem("swaps.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is switched off: the system's theme it is.
}
