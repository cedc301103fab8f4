// The page: obtains a token, connects, and shows the view that the address names.

import "./theme.js";
import { tokenOf } from "./addresses.js";
import { sayFault, watchHealth } from "./health.js";
import { ListView } from "./list.js";
import { Live } from "./live.js";
import { askToken } from "./login.js";
import { onRow } from "./row-clicks.js";
import { demo, freshToken, keep, shown } from "./session.js";
import { TokenView } from "./token.js";

const forget = document.getElementById("forget");
const AGAIN_MS = 5_000;

let list = null;
let token = null;

function route({ moved = true } = {}) {
  const tokenId = tokenOf(location.pathname);
  document.body.dataset.view = tokenId === null ? "list" : "token";
  if (tokenId === null) {
    token.close();
    list.open(moved);
  } else {
    list.close();
    token.open(tokenId, moved);
  }
}

function go(href) {
  history.pushState(null, "", href);
  route();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-link]");
  const plain = !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0;
  if (link === null || !plain || list === null) return;
  event.preventDefault();
  // The list with the window, sort and filters that it had.
  go(link.matches("[data-back], .brand") ? list.address : link.getAttribute("href"));
});
onRow((href, inNewTab) => {
  if (inNewTab) open(href, "_blank", "noopener");
  else if (list !== null) go(href);
});
addEventListener("popstate", () => list !== null && route());
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  const { view } = document.body.dataset;
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  if (typing || modified || list === null || view === "login") return;
  if (event.key === "Escape" && view === "token") go(list.address);
  if (event.key !== "/") return;
  event.preventDefault();
  if (view === "token") go(list.address);
  document.querySelector("#controls [name=q]").focus();
});

async function start(refused = null) {
  if (demo && refused !== null) {
    sayFault(`The service does not take the demo's token (${refused.message}). Trying again.`);
    await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
  if (!demo && (refused !== null || shown() === null)) {
    keep(null);
    await askToken(refused);
  }
  forget.hidden = demo;
  const live = new Live(demo ? freshToken : shown());
  list = new ListView(live);
  token = new TokenView(live);
  const health = watchHealth(live);
  const again = (reason) => {
    clearInterval(health);
    list.close();
    token.close();
    list = token = null;
    live.close();
    sayFault("");
    start(reason);
  };
  live.addEventListener("refused", ({ detail }) => again(detail), { once: true });
  forget.onclick = () => {
    keep(null);
    location.assign("/");
  };
  route({ moved: false });
}

start();
