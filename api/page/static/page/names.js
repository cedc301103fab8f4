// Names that strangers wrote: symbols, token ids, venues. They are shown as one harmless line.

import { short } from "./format.js";

const MARK = "\uFFFD";
const LONGEST_IN_TITLE = 24;

// Characters without a glyph of their own: controls, bidi overrides, zero-width characters, fillers.
const HIDDEN = String.raw`[\p{Cc}\p{Cf}\p{Cn}\p{Co}\p{Cs}\p{Zl}\p{Zp}\p{DI}\u2800]`;
// An emoji is allowed the joiners and selectors that it is made of.
const EMOJI = [
  String.raw`\p{Extended_Pictographic}`,
  String.raw`(?:\uFE0F|\p{Emoji_Modifier}|\u200D\p{Extended_Pictographic})*`,
].join("");
const EMOJI_OR_HIDDEN = new RegExp(`(${EMOJI})|${HIDDEN}`, "gu");
const FIRST_STRONG_ISOLATE = "\u2068";
const POP_ISOLATE = "\u2069";

/** The text with every invisible character replaced by �, so that nobody mistakes it for another. */
export const visible = (text) => text.replace(EMOJI_OR_HIDDEN, (_, emoji) => emoji ?? MARK).trim();

const isBlank = (text) => text.replaceAll(MARK, "").trim() === "";

/** What a reader calls a token: its symbol, or its short address where that shows nothing. */
export function nameOf({ symbol, token }) {
  const name = visible(symbol ?? "");
  return isBlank(name) ? short(visible(token)) : name;
}

/** A name inside a text without markup, so that right-to-left letters do not reorder what follows. */
export const isolated = (name) => `${FIRST_STRONG_ISOLATE}${name}${POP_ISOLATE}`;

/** The same, cut for the title of a document. */
export function titled(name) {
  const letters = [...name];
  const cut = letters.length > LONGEST_IN_TITLE;
  return isolated(cut ? `${letters.slice(0, LONGEST_IN_TITLE - 1).join("")}…` : name);
}

/** The sentence for a name with invisible characters; "" for any other. */
export function warningOf(text) {
  const found = [...(text ?? "").matchAll(EMOJI_OR_HIDDEN)].filter(([, emoji]) => !emoji);
  const codes = new Set(found.map(([each]) => codeOf(each)));
  return codes.size ? `Contains invisible characters: ${[...codes].slice(0, 4).join(", ")}.` : "";
}

const codeOf = (character) =>
  `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
