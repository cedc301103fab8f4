// A click anywhere in a row of the list opens its token, as its link does.

const body = document.getElementById("rows");
const MIDDLE = 1;

/** `open(href, inNewTab)` is called for a click on a row that is not on its link. */
export function onRow(open) {
  const act = (event) => {
    const link = event.target.closest("tr")?.querySelector("a[data-link]");
    const elsewhere = link && !event.target.closest("a, button");
    // A click that ends a text selection must not open the token.
    if (!elsewhere || !getSelection().isCollapsed) return;
    event.preventDefault();
    const inNewTab = event.button === MIDDLE || event.ctrlKey || event.metaKey || event.shiftKey;
    open(link.getAttribute("href"), inNewTab);
  };
  body.addEventListener("click", act);
  body.addEventListener("auxclick", (event) => event.button === MIDDLE && act(event));
  // Without this, a middle click starts scrolling in some browsers.
  body.addEventListener("mousedown", (event) => event.button === MIDDLE && event.preventDefault());
}
