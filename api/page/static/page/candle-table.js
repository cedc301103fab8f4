// The newest candles as a table: the content of the chart for readers who cannot see it.

import { count, price, usd } from "./format.js";
import { h } from "./dom.js";
import { isolated } from "./names.js";
import { opening } from "./times.js";

const SHOWN = 20;
const details = document.querySelector(".as-table");
const body = document.querySelector("#candle-table tbody");
const chart = document.getElementById("chart");

/** Draws the candles, but only while the table is open. */
export function drawCandleTable(all, name, interval, length) {
  const last = all.at(-1);
  const said = last ? `, the newest closed at ${price(last.close_usd)}` : "";
  chart.setAttribute("aria-label", `${all.length} candles of ${interval} of ${isolated(name)}${said}`);
  if (!details.open) return;
  const rows = all.slice(-SHOWN).reverse().map((each) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, opening(each.open_time, length)),
      ...["open_usd", "high_usd", "low_usd", "close_usd"].map((key) => h("td", {}, price(each[key]))),
      h("td", {}, usd(each.volume_usd)),
      h("td", {}, count(each.trades)),
    ),
  );
  body.replaceChildren(...rows);
}

/** Calls `listener` when the reader opens the table. */
export const onCandleTable = (listener) => {
  details.ontoggle = listener;
};
