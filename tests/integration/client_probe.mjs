// A JavaScript client as a process, for tests, like client_probe.py.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { SwapsClient } from "../../clients/js/swaps.js";

const { URL: url, CHANNEL: channel, TOKENS, BUFFER, TOKEN_FILE, HOLD } = process.env;
const say = (fields) => console.log(JSON.stringify(fields));

const client = new SwapsClient({
  url,
  token: () => {
    say({ kind: "token" });
    return readFileSync(TOKEN_FILE, "utf8");
  },
  backoff: { longestMs: 1_000, limitedMs: 500 },
});
client.addEventListener("change", ({ detail }) =>
  say({ kind: "change", ...detail, error: client.error?.message ?? "" }),
);
client.addEventListener("refused", ({ detail }) => say({ kind: "connection_refused", ...detail }));
const stdin = createInterface({ input: process.stdin });
const released = HOLD ? new Promise((go) => stdin.once("line", go)) : null;
stdin.once("close", () => client.close());

function report({ token, snapshot, data }) {
  if (channel === "trades") {
    const trades = data.trades.map((each) => [each.n, each.tx_hash]);
    say({ kind: "trades", token, snapshot, trades });
  } else {
    say({ kind: "stats", token, snapshot, stats: data });
  }
}

client.subscribe({
  channel,
  tokens: TOKENS.split(","),
  buffer: BUFFER ? Number(BUFFER) : undefined,
  onUpdate: HOLD ? (update) => released.then(() => report(update)) : report,
  onGap: (gap) => say({ ...gap, kind: "gap" }),
  onError: (error) => {
    if (error.token) say({ kind: "refused", code: error.code, token: error.token });
    else {
      say({ kind: "ended", error: error.name, text: error.message });
      stdin.close();
    }
  },
});
