// Refreshes the numbers of the open list of tokens every two seconds while the page is visible.
"use strict";

window.addEventListener("load", () => {
  const place = document.getElementById("live-rows");
  const cells = place ? [...place.querySelectorAll("[data-live]")] : [];
  const ids = [...new Set(cells.map((cell) => cell.dataset.token))];
  if (ids.length === 0) {
    return;
  }
  const address = new URL(place.dataset.liveUrl, window.location.href);
  ids.slice(0, 200).forEach((id) => address.searchParams.append("id", id));

  const refresh = async () => {
    if (document.hidden) {
      return;
    }
    const answer = await fetch(address, { headers: { Accept: "application/json" } });
    if (!answer.ok) {
      return;
    }
    const numbers = await answer.json();
    for (const cell of cells) {
      const row = numbers[cell.dataset.token];
      if (row && cell.textContent !== row[cell.dataset.live]) {
        cell.textContent = row[cell.dataset.live];
        cell.classList.remove("live-changed");
        void cell.offsetWidth; // restarts the animation
        cell.classList.add("live-changed");
      }
    }
  };
  window.setInterval(() => refresh().catch(() => {}), 2000);
});
