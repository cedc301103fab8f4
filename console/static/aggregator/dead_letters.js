// The checkbox above the list of dead letters selects all of them.
"use strict";

const all = document.getElementById("letters-all");
if (all) {
  all.addEventListener("change", () => {
    for (const box of document.querySelectorAll('input[name="position"]')) {
      box.checked = all.checked;
    }
  });
}
