// The addresses of the page's views.

export const TOKENS = "/tokens/";

export const addressOf = (tokenId) =>
  `${TOKENS}${tokenId.split("/").map(encodeURIComponent).join("/")}`;

/** The token id of a path; null for the list. */
export function tokenOf(path) {
  if (!path.startsWith(TOKENS)) return null;
  const name = path.slice(TOKENS.length);
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** What is wrong with a token id, as a sentence; "" where nothing is. */
export function faultOf(tokenId) {
  return /^[a-z0-9][a-z0-9-]{0,31}:.{1,128}$/isu.test(tokenId)
    ? ""
    : "This is not the address of a token. Token addresses end in chain:token, such as ethereum:0x….";
}
