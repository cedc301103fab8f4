// Formats numbers for readers. Values are decimal strings; null is unknown and shown as –.

export const UNKNOWN = "–";
const MINUS = "−";

const count_ = new Intl.NumberFormat("en-US");
const compact_ = new Intl.NumberFormat("en-US", {
  notation: "compact", minimumFractionDigits: 2, maximumFractionDigits: 2,
});
const cents_ = new Intl.NumberFormat("en-US", {
  minimumFractionDigits: 2, maximumFractionDigits: 2,
});
const amount_ = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 5 });
const known = (value) => value !== null && value !== undefined;

export const count = (value) => (known(value) ? count_.format(value) : UNKNOWN);

const superscript = (text) => [...text].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");

// Above trillions no suffix is widely understood: 1.23×10¹⁸.
const bare = (number) => {
  const size = Math.abs(number);
  if (size < 999.995) return cents_.format(size);
  if (size < 9.99995e14) return compact_.format(size);
  const [digits, exponent] = size.toExponential(2).split("e+");
  return `${digits}×10${superscript(exponent)}`;
};

/** $1.23M */
export function usd(text) {
  if (!known(text)) return UNKNOWN;
  const number = Number(text);
  const sign = number < 0 ? MINUS : "";
  const isLess = number !== 0 && Math.abs(number) < 0.005;
  return isLess ? `${sign}<$0.01` : `${sign}$${bare(number)}`;
}

/** The same with its sign. */
export function flow(text) {
  if (!known(text)) return UNKNOWN;
  const number = Number(text);
  return number > 0 ? `+${usd(text)}` : usd(text);
}

/** At least four digits; a subscript counts many zeros after the point: $0.0₆1234. */
export function price(text) {
  const number = Number(text);
  if (!known(text) || !Number.isFinite(number)) return UNKNOWN;
  const sign = number < 0 ? MINUS : "";
  const size = Math.abs(number);
  if (size === 0) return "$0";
  if (size >= 1e6) return `${sign}$${bare(size)}`;
  if (size >= 100) return `${sign}$${cents_.format(size)}`;
  return `${sign}$${small(size, 4)}`;
}

/** A price as an axis label, with enough digits to distinguish prices that are `step` apart. */
export function axisPrice(number, step) {
  if (number < 0) return "";
  if (number === 0) return "$0";
  // The margin covers steps such as 0.3, whose logarithm lies between two digits.
  const figures = Math.floor(Math.log10(number) + 1e-9) - Math.floor(Math.log10(step) + 1e-9) + 1;
  const needed = Math.min(15, Math.max(2, figures));
  if (number >= 1e15) return `$${bare(number)}`;
  if (number < 1) return `$${small(number, needed)}`;
  const [divisor, letter] = UNITS.find(([unit]) => number >= unit && needed < 7) ?? [1, ""];
  const digits = Math.max(0, Math.ceil(-Math.log10(step / divisor) - 1e-9));
  const shown = new Intl.NumberFormat("en-US", {
    minimumFractionDigits: Math.min(digits, 12), maximumFractionDigits: Math.min(digits, 12),
  });
  return `$${shown.format(number / divisor)}${letter}`;
}

const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"]];

// Below 0.00001 a subscript counts the zeros: 0.0₅1234.
function small(size, figures) {
  const [digits, exponent] = size.toExponential(figures - 1).split("e");
  const zeros = -Number(exponent) - 1;
  if (zeros >= 4) return `0.0${subscript(zeros)}${digits.replace(".", "")}`;
  return Number(size.toPrecision(figures)).toLocaleString("en-US", {
    minimumSignificantDigits: figures, maximumSignificantDigits: figures,
  });
}

const subscript = (number) =>
  [...String(number)].map((digit) => String.fromCodePoint(0x2080 + Number(digit))).join("");

export function percent(value) {
  if (!known(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size < 0.005) return "0.00%";
  const sign = value < 0 ? MINUS : "+";
  if (size >= 1e6) return `${sign}${bare(size)}%`;
  return `${sign}${size >= 1_000 ? count_.format(Math.round(size)) : size.toFixed(2)}%`;
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

/** Shortens a long id to its first and last characters. */
export const short = (text, ends = 4) =>
  text.length <= 2 * ends + 4 ? text : `${text.slice(0, ends + 2)}…${text.slice(-ends)}`;

/** "up", "down" or "" by the sign of a number, a decimal string or null. */
export const side = (value) => {
  const number = Number(value ?? 0);
  return number > 0 ? "up" : number < 0 ? "down" : "";
};

/** The same for a percentage, by its displayed digits: −0.001 is neither. */
export const trend = (percentage) => side(Number((percentage ?? 0).toFixed(2)));

export const ARROWS = { up: "▲", down: "▼", "": "" };
