// Instants as a reader's clock shows them, with their zone; days of candles as the UTC days they are.

const DAY_MS = 86_400_000;

const form = (options) => new Intl.DateTimeFormat("en-GB", options);

const clock_ = form({ timeStyle: "medium" });
const dayAndClock_ = form({ day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const dated_ = form({ dateStyle: "medium" });
const moment_ = form({
  day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit",
  timeZoneName: "short",
});
const zone_ = form({ timeZoneName: "short" });
const utcDay_ = form({ dateStyle: "medium", timeZone: "UTC" });

/** 25 Oct 2026, 02:30 CET */
export const moment = (ms) => moment_.format(ms);

/** The time of a trade: without its date only where that is today's. */
export function clock(ms, now) {
  return dated_.format(ms) === dated_.format(now) ? clock_.format(ms) : dayAndClock_.format(ms);
}

/** The name of the reader's zone at that instant. */
export const zone = (ms) =>
  zone_.formatToParts(ms).find((part) => part.type === "timeZoneName").value;

/** When a candle opens; a candle of a day is named by its UTC day, in every zone. */
export const opening = (ms, length) =>
  length < DAY_MS ? moment(ms) : `${utcDay_.format(ms)} (UTC day)`;

const AXIS = ["year", "month", "day"].map((smallest) => form({
  ...(smallest === "year" ? { year: "numeric" } : { month: "short" }),
  ...(smallest === "day" ? { day: "numeric" } : {}),
  timeZone: "UTC",
}));
const MIDNIGHT = "00:00";
const hour_ = form({ hour: "2-digit", minute: "2-digit" });
const day_ = form({ day: "numeric", month: "short" });
const TIME_KIND = 3;

/**
 * A label under a chart. `kind` is the library's TickMarkType, from 0 (a year begins) to 4. The
 * library knows UTC only: where its midnights are not the reader's, the label says date and time.
 */
export function axisTime(ms, kind, length) {
  if (length >= DAY_MS) return (AXIS[kind] ?? AXIS.at(-1)).format(ms);
  const hour = hour_.format(ms);
  if (hour === MIDNIGHT) return day_.format(ms);
  return kind >= TIME_KIND ? hour : dayAndClock_.format(ms);
}
