// Plays scripts to the JavaScript client's session, one a line; test_clients_agree.py says how.
import { createInterface } from "node:readline";
import { Inbox, Session } from "../../../clients/js/swaps.js";

const BACKOFF = { firstMs: 500, longestMs: 30_000, limitedMs: 5_000 };

function attempt(act) {
  try {
    return act();
  } catch (error) {
    return { error: error.name };
  }
}

function play({ topics, buffer, renewable, steps }) {
  const session = new Session(BACKOFF, () => 0.5, renewable);
  const inbox = new Inbox(topics, 100, buffer);
  session.add(inbox);
  const acts = {
    connect: () => session.connecting(),
    frame: (messages, now) => session.received(JSON.stringify(messages), now),
    lost: (code, now) => session.lost(code, now),
    requests: () => session.requests(),
    pop: () => {
      const event = inbox.pop();
      if (event?.kind === "error") return { refused: event.error.code };
      return event;
    },
  };
  return steps.map(([name, value, now]) => {
    const result = attempt(() => acts[name](value, now)) ?? null;
    const { state, stale, renewAt, refusal } = session;
    return [result, state, stale, renewAt, inbox.conflated, refusal];
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(play(JSON.parse(line))));
}
