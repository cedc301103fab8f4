"""The dashboard in a browser: correct and live numbers, accessibility, and only local requests."""

from __future__ import annotations

import re
from urllib.parse import quote

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from aggregator.runtime.clock import wall_ms
from tests.e2e.dashboard import FRESH, WITHIN_MS, Dashboard, agrees, shown
from tests.support.processes import wait_until
from tests.support.service import swap

pytestmark = [pytest.mark.engines, pytest.mark.timeout(180)]

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
WITHIN_S = 30


def wait_agrees(dashboard: Dashboard, page: Page, **params: str) -> None:
    """Wait until the list shows REST's numbers."""

    def same() -> bool:
        page.wait_for_timeout(50)  # Lets the driver process its events.
        return agrees(page, dashboard.settled(**params))

    wait_until(same, WITHIN_S, "the list as REST has it")


def trades_of(page: Page, token: str) -> int:
    return next(int(row["trades"]) for row in shown(page) if row["token"] == token)


def test_the_list_shows_rests_numbers_and_updates_automatically(dashboard: Dashboard) -> None:
    with dashboard.visit() as visit:
        page = visit.open()
        wait_agrees(dashboard, page)
        totals = dashboard.settled()["totals"]
        expect(page.locator("[data-total=trades]")).to_have_text(f"{totals['trades']:,}")
        expect(page.locator("[data-total=volume_usd]")).to_have_attribute(
            "title", totals["volume_usd"]
        )
        expect(page.locator("#health-partitions")).to_have_text("4 of 4 fresh")
        expect(page.locator("#banner")).to_be_hidden()

        before = trades_of(page, "ethereum:T0")
        dashboard.trade(21)
        wait_until(
            lambda: page.wait_for_timeout(20) or trades_of(page, "ethereum:T0") == before + 3,
            WITHIN_S,
            "three more trades",
        )
        wait_agrees(dashboard, page)


def test_window_sort_search_and_filters(dashboard: Dashboard) -> None:
    with dashboard.visit() as visit:
        page = visit.open()
        page.get_by_role("button", name="Net flow").click()
        page.get_by_role("button", name="Net flow").click()
        expect(page.get_by_role("columnheader", name="Net flow")).to_have_attribute(
            "aria-sort", "ascending"
        )
        wait_agrees(dashboard, page, sort="net_volume_usd", order="asc")

        page.get_by_role("searchbox").fill("t3")
        expect(page.locator("#rows tr")).to_have_count(1)
        expect(page).to_have_url(re.compile(r"\?sort=net_volume_usd&order=asc&q=t3$"))
        page.reload()
        expect(page.locator("#rows tr")).to_have_count(1)
        wait_agrees(dashboard, page, sort="net_volume_usd", order="asc", q="t3")

        page.get_by_role("searchbox").fill("nothing has this name")
        expect(page.locator("#list-note")).to_have_text("No token matches.")
        page.get_by_text("Filters", exact=False).click()
        page.get_by_role("button", name="Clear").click()
        page.get_by_label("Trades from").fill("1000000")
        expect(page.locator("#rows tr")).to_have_count(0)
        expect(page.locator("#filters-on")).to_have_text("(1)")
        page.get_by_label("Trades from").fill("")
        page.locator("#windows [value='1h']").check()
        wait_agrees(dashboard, page, window="1h")


def test_a_token_by_keyboard_alone(dashboard: Dashboard) -> None:
    token = "cosmos:ibc/27394F?a#b%20"
    dashboard.trade(3, chain="cosmos", token=token.partition(":")[2], symbol="ATOM", side="buy")
    dashboard.settled()
    with dashboard.visit() as visit:
        page = visit.open()
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to the numbers")).to_be_focused()
        page.keyboard.press("/")
        page.keyboard.type("atom")
        expect(page.locator("#rows tr")).to_have_count(1)
        link = page.get_by_role("link", name="ATOM")
        for _ in range(20):
            page.keyboard.press("Tab")
            if link.evaluate("each => each === document.activeElement"):
                break
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="ATOM", level=1)).to_be_focused()

        rest = dashboard.service.get(f"/api/tokens/{quote(token)}/stats").json()
        for window in ("5m", "1h", "24h"):
            for name in (
                "volume_usd",
                "trades",
                "buys",
                "traders",
                "largest_trade_usd",
                "vwap_usd",
            ):
                cell = page.locator(f'[data-of="{window} {name}"]')
                expect(cell).to_have_js_property("value", str(rest["windows"][window][name]))
        expect(page.locator("#trades tr")).to_have_count(3)
        expect(page.locator("#trades tr").first).to_contain_text("▲ buy")
        expect(page.locator("#chart canvas").first).to_be_visible()
        expect(page.locator("#chart-note")).to_contain_text("The archive is not available now")
        page.get_by_text("The newest candles as a table").click()
        expect(page.locator("#candle-table tbody tr").first).to_be_visible()

        dashboard.trade(2, chain="cosmos", token=token.partition(":")[2], symbol="ATOM")
        expect(page.locator("#trades tr")).to_have_count(5, timeout=WITHIN_MS)
        counted = page.locator("#candle-table tbody tr td:last-child").all_inner_texts()
        assert sum(map(int, counted)) == 5
        page.reload()
        expect(page.get_by_role("heading", name="ATOM", level=1)).to_be_visible()
        expect(page.locator("#trades tr")).to_have_count(5)
        page.go_back()
        expect(page.get_by_role("searchbox")).to_have_value("atom")


def test_what_the_chain_took_back_is_struck_through_and_may_come_again(
    dashboard: Dashboard,
) -> None:
    number = dashboard.produced
    fields = {"token": "BACK", "side": "sell", "amount_usd": "1234.5", "timestamp": wall_ms()}
    dashboard.swaps(fields)
    dashboard.settled()
    with dashboard.visit() as visit:
        page = visit.open("/tokens/ethereum:BACK")
        expect(page.locator("#trades tr")).to_have_count(1)
        dashboard.service.produce([swap(number, **fields, removed=True)])
        struck = page.locator("#trades tr[data-undone=yes]")
        expect(struck).to_have_count(1, timeout=WITHIN_MS)
        expect(struck).to_contain_text("taken back by the chain")
        expect(page.locator("#trades-undone")).to_have_text(
            "1 taken back by the chain, worth $1.23K"
        )
        expect(page.locator("#quality")).to_contain_text("1 retracted")

        dashboard.service.produce([swap(number, **fields)])
        expect(page.locator("#trades tr:not([data-undone])")).to_have_count(1, timeout=WITHIN_MS)
        expect(struck).to_have_count(1)
        dashboard.settled()


def test_the_aggregator_is_killed_and_comes_back(dashboard: Dashboard) -> None:
    with dashboard.visit() as visit:
        page = visit.open()
        wait_agrees(dashboard, page)
        # pytest is the parent, so it must reap the process.
        dashboard.aggregator.kill()
        expect(page.locator("body[data-fresh=no]")).to_be_attached(timeout=WITHIN_MS)
        said = page.get_by_role("status").filter(has_text="The aggregator is silent")
        expect(said).to_be_visible()
        expect(page.locator("#banner-age")).to_have_text(re.compile(r"\d+ s old"))
        expect(page.locator("#health-partitions")).to_have_text("0 of 4 fresh")
        expect(page.locator("#rows tr[data-stale=yes]").first).to_be_attached(timeout=WITHIN_MS)
        grey = page.locator("#rows td.price").first
        expect(grey).to_have_css("filter", "grayscale(1)")
        first = page.inner_text("#banner-age")
        expect(page.locator("#banner-age")).not_to_have_text(first)

        dashboard.trade(50)
        dashboard.aggregator = dashboard.service.aggregator("again")
        expect(page.locator(FRESH)).to_be_attached(timeout=60_000)
        expect(page.locator("#banner")).to_be_hidden()
        wait_agrees(dashboard, page)
        expect(page.locator("#rows tr[data-stale=yes]")).to_have_count(0)


def test_the_connection_is_lost_and_comes_back(dashboard: Dashboard) -> None:
    with dashboard.visit() as visit:
        page = visit.open()
        wait_agrees(dashboard, page)
        visit.outage = True
        dashboard.web.kill()
        said = page.get_by_role("status").filter(has_text="Connection lost. Trying again")
        expect(said).to_be_visible(timeout=WITHIN_MS)
        expect(page.locator("#health-connection")).to_have_text("reconnecting")
        expect(page.locator("#health-partitions")).to_have_text("–")  # noqa: RUF001
        expect(page.locator("#rows td.price").first).to_have_css("filter", "grayscale(1)")

        dashboard.trade(14)
        dashboard.web = dashboard.service.web("web-again")
        expect(page.locator(FRESH)).to_be_attached(timeout=60_000)
        wait_agrees(dashboard, page)


def test_a_phone_needs_no_sideways_scroll(dashboard: Dashboard) -> None:
    with dashboard.visit(**PHONE) as visit:
        for path in ("/", "/tokens/ethereum:T1"):
            page = visit.open(path)
            rows = "#rows tr" if path == "/" else "#trades tr"
            expect(page.locator(rows).first).to_be_visible()
            page.wait_for_timeout(300)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width == 360, path


@pytest.mark.parametrize("width", [1360, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_a_screen_readers_way(
    dashboard: Dashboard, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 900}
    with dashboard.visit(color_scheme=scheme, reduced_motion="reduce", viewport=size) as visit:
        for path in ("/", "/tokens/ethereum:T1"):
            page = visit.open(path)
            expect(page.locator("#rows tr, #trades tr").first).to_be_visible()
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()


def test_without_a_demo_it_asks_for_a_token_and_keeps_it_in_the_tab(dashboard: Dashboard) -> None:
    with dashboard.without_demo(), dashboard.visit() as visit:
        refused = httpx.get(f"{visit.origin}/demo-token")
        assert (refused.status_code, refused.json()["code"]) == (404, "not_a_demo")
        page = visit.page
        page.goto(visit.origin)
        field = page.get_by_label("Token (JWT)")
        expect(field).to_be_focused()
        assert Axe().run(page).violations_count == 0

        field.fill("no token")
        page.get_by_role("button", name="Connect").click()
        expect(page.get_by_role("alert").first).to_contain_text("That is no JWT")
        visit.outage = True  # The browser logs the refused handshake.
        field.fill(dashboard.token(scope="history:read"))
        page.get_by_role("button", name="Connect").click()
        expect(page.get_by_text("lacks a scope")).to_be_visible(timeout=WITHIN_MS)
        visit.outage = False

        field.fill(dashboard.token())
        page.get_by_role("button", name="Connect").click()
        expect(page.locator("#rows tr").first).to_be_visible(timeout=WITHIN_MS)
        page.reload()
        expect(page.locator("#rows tr").first).to_be_visible(timeout=WITHIN_MS)
        assert page.evaluate("Object.keys(localStorage).length") == 0
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Forget token").click()
        expect(page.get_by_label("Token (JWT)")).to_be_visible()
        assert page.evaluate("Object.keys(sessionStorage).length") == 0


def test_the_page_allows_no_inline_script_and_is_not_mixed_from_two_versions(
    dashboard: Dashboard,
) -> None:
    answer = httpx.get(f"{dashboard.origin}/tokens/ethereum:T1")
    policy = answer.headers["Content-Security-Policy"]
    assert "'unsafe" not in policy
    assert not re.findall(r"<script(?![^>]*\bsrc=)|\son\w+=|\bstyle=", answer.text)

    module = httpx.get(f"{dashboard.origin}/static/page/main.js")
    assert module.headers["Content-Type"].startswith("text/javascript")
    assert module.headers["Content-Encoding"] == "gzip"
    assert module.headers["Cache-Control"] == "no-cache"
    known = {"If-None-Match": module.headers["ETag"]}
    assert httpx.get(str(module.url), headers=known).status_code == 304
    for name in ("page/../../settings.py", "page/%2e%2e/%2e%2e/settings.py", "nothing.js"):
        assert httpx.get(f"{dashboard.origin}/static/{name}").status_code in {400, 404}
