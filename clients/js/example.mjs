// The ten busiest tokens of the last hour, live. Needs WEB_URL and TOKEN: see clients/README.md.
import { SwapsClient } from "./swaps.js";

new SwapsClient({ url: process.env.WEB_URL, token: process.env.TOKEN }).subscribe({
  channel: "overview",
  params: { window: "1h", limit: 10 },
  onUpdate: ({ data }) => {
    for (const row of data.tokens) console.log(row.token_id, row.windows["1h"].volume_usd);
  },
});
