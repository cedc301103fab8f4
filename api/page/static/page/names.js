// Untrusted names: symbols, token ids, venues. They are shown as one line without side effects.

import { short } from "./format.js";

const MARK = "\uFFFD";
const LONGEST_IN_TITLE = 24;

// Characters without a visible glyph: controls, bidi overrides, zero-width characters, fillers.
const HIDDEN = String.raw`[\p{Cc}\p{Cf}\p{Cn}\p{Co}\p{Cs}\p{Zl}\p{Zp}\p{DI}\u2800]`;
// The joiners and variation selectors inside an emoji are allowed.
const EMOJI = [
  String.raw`\p{Extended_Pictographic}`,
  String.raw`(?:\uFE0F|\p{Emoji_Modifier}|\u200D\p{Extended_Pictographic})*`,
].join("");
const EMOJI_OR_HIDDEN = new RegExp(`(${EMOJI})|${HIDDEN}`, "gu");
const FIRST_STRONG_ISOLATE = "\u2068";
const POP_ISOLATE = "\u2069";

/** Replaces every invisible character by �, so that two names that differ also look different. */
export const visible = (text) => text.replace(EMOJI_OR_HIDDEN, (_, emoji) => emoji ?? MARK).trim();

const isBlank = (text) => text.replaceAll(MARK, "").trim() === "";

/** A token's display name: its symbol, or its short address if the symbol is blank. */
export function nameOf({ symbol, token }) {
  const name = visible(symbol ?? "");
  return isBlank(name) ? short(visible(token)) : name;
}

/** Isolates a name in plain text, so that right-to-left letters do not reorder what follows. */
export const isolated = (name) => `${FIRST_STRONG_ISOLATE}${name}${POP_ISOLATE}`;

/** The same, cut to fit a document's title. */
export function titled(name) {
  const letters = [...name];
  const cut = letters.length > LONGEST_IN_TITLE;
  return isolated(cut ? `${letters.slice(0, LONGEST_IN_TITLE - 1).join("")}…` : name);
}

/** The warning for a name with invisible characters; "" for any other name. */
export function warningOf(text) {
  const found = [...(text ?? "").matchAll(EMOJI_OR_HIDDEN)].filter(([, emoji]) => !emoji);
  const codes = new Set(found.map(([each]) => codeOf(each)));
  return codes.size ? `Contains invisible characters: ${[...codes].slice(0, 4).join(", ")}.` : "";
}

const codeOf = (character) =>
  `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
