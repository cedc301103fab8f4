// A token's numbers of all windows, side by side.

import { ARROWS, count, flow, percent, price, side, trend, usd } from "./format.js";
import { attribute, h, put, show } from "./dom.js";

const names = document.documentElement.dataset.windows.split(" ");
const table = document.getElementById("window-table");
const quality = document.getElementById("quality");

const arrowed = (text, value) => `${ARROWS[trend(value)]} ${text}`.trim();

const LINES = [
  ["Price change", "price_change_pct", (value) => arrowed(percent(value), value), trend],
  ["Volume", "volume_usd", usd],
  ["… in the window before", "previous.volume_usd", usd],
  ["Net flow", "net_volume_usd", flow, side],
  ["Bought", "buy_volume_usd", usd],
  ["Sold", "sell_volume_usd", usd],
  ["Trades", "trades", count],
  ["… in the window before", "previous.trades", count],
  ["Buys", "buys", count],
  ["Sells", "sells", count],
  ["Traders", "traders", count],
  ["Largest trade", "largest_trade_usd", usd],
  ["VWAP", "vwap_usd", price],
  ["Open", "open_usd", price],
  ["High", "high_usd", price],
  ["Low", "low_usd", price],
  ["Close", "close_usd", price],
];

const at = (of, path) => path.split(".").reduce((found, key) => found?.[key] ?? null, of);

const lines = LINES.map(([label, path, text, signed]) => {
  const cells = names.map((window) => h("data", { "data-of": `${window} ${path}` }));
  const row = h("tr", {}, h("th", { scope: "row" }, label), ...cells.map((each) => h("td", {}, each)));
  return { cells, path, text, signed, row };
});
table.tBodies[0].replaceChildren(...lines.map((each) => each.row));

/** Draws one token's stats; null empties the table. */
export function drawWindows(data) {
  for (const { cells, path, text, signed } of lines) {
    names.forEach((window, index) => {
      const of = data?.windows[window];
      const value = of ? at(of, path) : null;
      show(cells[index], value, text(value));
      if (signed) cells[index].className = signed(value);
    });
  }
  attribute(table, "data-stale", data?.stale ? "yes" : null);
  put(quality, data ? qualityOf(data) : "");
}

/** Forgets the shown numbers, so that the next token's do not flash as changes of these. */
export function clearWindows() {
  for (const { cells } of lines) for (const each of cells) each.value = "";
  drawWindows(null);
}

function qualityOf({ windows, quality: found }) {
  const partial = names.filter((each) => windows[each] && !windows[each].complete);
  const said = [];
  if (partial.length) said.push(`The history does not cover ${partial.join(", ")} yet.`);
  const counts = Object.entries(found).filter(([, each]) => each > 0);
  if (counts.length) {
    said.push(`In 24 h: ${counts.map(([name, each]) => `${count(each)} ${name}`).join(", ")}.`);
  }
  return said.join(" ");
}
