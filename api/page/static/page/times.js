// Formats instants in the reader's time zone, with its name; daily candles are named by UTC day.

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

/** The time of a trade; the date is left out if it is today's. */
export function clock(ms, now) {
  return dated_.format(ms) === dated_.format(now) ? clock_.format(ms) : dayAndClock_.format(ms);
}

/** The name of the reader's time zone at that instant. */
export const zone = (ms) =>
  zone_.formatToParts(ms).find((part) => part.type === "timeZoneName").value;

/** When a candle opens; a daily candle is named by its UTC day in every zone. */
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
 * library knows only UTC: where its midnight is not the reader's, the label has date and time.
 */
export function axisTime(ms, kind, length) {
  if (length >= DAY_MS) return (AXIS[kind] ?? AXIS.at(-1)).format(ms);
  const hour = hour_.format(ms);
  if (hour === MIDNIGHT) return day_.format(ms);
  return kind >= TIME_KIND ? hour : dayAndClock_.format(ms);
}
