// Sends one swap. Needs WEB_URL and TOKEN with the scope swaps:write: see clients/README.md.
import { ingest } from "./swaps.js";

const swap = {
  chain: "example",
  tx_hash: crypto.randomUUID(),
  log_index: 0,
  timestamp: Date.now(),
  token: "HELLO",
  side: "buy",
  amount: "2",
  amount_usd: "10.50",
};
const report = await ingest({
  url: process.env.WEB_URL,
  token: process.env.TOKEN,
  swaps: [swap],
});
console.log(report.accepted, report.rejected, report.errors);
