// Numbers as a reader takes them in. Values come as decimal strings; unknown is null and shown as –.

export const UNKNOWN = "–";
const MINUS = "−";

const count_ = new Intl.NumberFormat("en-US");
const compact_ = new Intl.NumberFormat("en-US", {
  notation: "compact", minimumFractionDigits: 2, maximumFractionDigits: 2,
});
const cents_ = new Intl.NumberFormat("en-US", {
  minimumFractionDigits: 2, maximumFractionDigits: 2,
});
const four_ = new Intl.NumberFormat("en-US", {
  minimumSignificantDigits: 4, maximumSignificantDigits: 4,
});
const amount_ = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 5 });
const clock_ = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const moment_ = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

const known = (value) => value !== null && value !== undefined;

export const count = (value) => (known(value) ? count_.format(value) : UNKNOWN);
export const clock = (ms) => clock_.format(ms);
export const moment = (ms) => moment_.format(ms);

const bare = (number) => {
  const size = Math.abs(number);
  return size < 1_000 ? cents_.format(size) : compact_.format(size);
};

/** $1.23M */
export function usd(text) {
  if (!known(text)) return UNKNOWN;
  const number = Number(text);
  return `${number < 0 ? MINUS : ""}$${bare(number)}`;
}

/** The same with its sign. */
export function flow(text) {
  if (!known(text)) return UNKNOWN;
  const number = Number(text);
  return number > 0 ? `+${usd(text)}` : usd(text);
}

/** Four figures at least; many zeros behind the point are counted: $0.0₆1234. */
export function price(text) {
  const number = Number(text);
  if (!known(text) || !Number.isFinite(number)) return UNKNOWN;
  const sign = number < 0 ? MINUS : "";
  const size = Math.abs(number);
  if (size === 0) return "$0";
  if (size >= 100) return `${sign}$${cents_.format(size)}`;
  const [digits, exponent] = size.toExponential(3).split("e");
  const zeros = -Number(exponent) - 1;
  if (zeros < 4) return `${sign}$${four_.format(size)}`;
  return `${sign}$0.0${subscript(zeros)}${digits.replace(".", "")}`;
}

const subscript = (number) =>
  [...String(number)].map((digit) => String.fromCodePoint(0x2080 + Number(digit))).join("");

export function percent(value) {
  if (!known(value)) return UNKNOWN;
  const size = Math.abs(value);
  const digits = size >= 1_000 ? count_.format(Math.round(size)) : size.toFixed(2);
  if (Number(digits.replaceAll(",", "")) === 0) return "0.00%";
  return `${value < 0 ? MINUS : "+"}${digits}%`;
}

export const amount = (text) => {
  if (!known(text)) return UNKNOWN;
  const number = Number(text);
  return number >= 100_000 ? bare(number) : amount_.format(number);
};

export function age(ms) {
  if (!known(ms)) return UNKNOWN;
  const s = Math.max(0, Math.floor(ms / 1_000));
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3_600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

/** A long id by its ends. */
export const short = (text, ends = 4) =>
  text.length <= 2 * ends + 4 ? text : `${text.slice(0, ends + 2)}…${text.slice(-ends)}`;

/** How a reader calls a token. */
export const nameOf = (row) => row.symbol ?? short(row.token);

/** "up", "down" or "" by the sign of a number, a decimal string or null. */
export const side = (value) => {
  const number = Number(value ?? 0);
  return number > 0 ? "up" : number < 0 ? "down" : "";
};

/** The same for a percentage, by what is shown of it: −0.001 is neither. */
export const trend = (percentage) => side(Number((percentage ?? 0).toFixed(2)));

export const ARROWS = { up: "▲", down: "▼", "": "" };
