// Sends the swaps of a script with the JavaScript client; test_client_ingest.py says how.
import { createInterface } from "node:readline";
import { ingest } from "../../../clients/js/swaps.js";

async function play({ swaps, most, answers, withinMs, renewable }) {
  const sent = [];
  let tokens = 0;
  const fetch = async (_target, { headers, body }) => {
    sent.push([headers.Authorization, body]);
    const [status, retryAfter, document] = answers.shift();
    if (status === 0) throw new TypeError("the connection is lost");
    return {
      status,
      headers: { get: () => retryAfter },
      json: async () => {
        if (document === null) throw new SyntaxError("no JSON");
        return document;
      },
    };
  };
  const token = renewable ? async () => `token-${(tokens += 1)}` : "token";
  const backoff = { firstMs: 0, longestMs: 0 };
  const url = "http://node";
  const result = await ingest({ url, token, swaps, most, withinMs, backoff, fetch }).catch(
    ({ status, code, report, first }) => ({ status, code, report, first }),
  );
  return { sent, result };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await play(JSON.parse(line))));
}
