"""The dashboard over an archive: quiet tokens, older trades, days and hours in every zone."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from aggregator.contracts.units import DAY_MS, HOUR_MS, MINUTE_MS
from infra.embedded.stack import Stack
from tests.e2e.dashboard import WITHIN_MS, Dashboard
from tests.support.archive_rows import Row, archive, insert
from tests.support.browser import chromium
from tests.support.processes import wait_until
from tests.support.service import Service

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240)]

NOW_MS = time.time_ns() // 1_000_000
# Rows of an aggregator that no longer runs: the present one has none of these numbers.
PARTITION = 200
QUIET_MS = NOW_MS // HOUR_MS * HOUR_MS - 70 * HOUR_MS
OLDEST_MS = QUIET_MS - 40 * HOUR_MS
# The archive of these tests keeps everything on its local disk.
KEEP = {"ARCHIVE_HOT": "1000d", "ARCHIVE_KEEP": "1001d"}


def clocks_set_back(zone: str) -> int:
    """Return the instant, in ms, at which that zone's clocks last went back."""
    local = ZoneInfo(zone)
    at = NOW_MS // HOUR_MS * HOUR_MS - DAY_MS
    while dt.datetime.fromtimestamp((at - HOUR_MS) / 1000, local).utcoffset() <= (  # type: ignore[operator]
        dt.datetime.fromtimestamp(at / 1000, local).utcoffset()
    ):
        at -= HOUR_MS
    return at


BERLIN_MS = clocks_set_back("Europe/Berlin")


def rows() -> list[Row]:
    """Return archived swaps of tokens that are no longer traded."""
    quiet = [QUIET_MS + n * 5 * MINUTE_MS for n in range(150)] + [OLDEST_MS]
    twice = [BERLIN_MS + (n - 10) * MINUTE_MS for n in (*range(10), *range(60, 70))]
    days = [BERLIN_MS // DAY_MS * DAY_MS + n * DAY_MS + HOUR_MS for n in range(5)]
    tokens = {"quiet": quiet, "twice": twice, "days": days}
    return [
        Row(number=n * 10_000 + at, timestamp=ms, token=token, partition=PARTITION, price=1.0 + at)
        for n, (token, instants) in enumerate(tokens.items())
        for at, ms in enumerate(instants)
    ]


@pytest.fixture(scope="module")
def archived(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    path = chromium()
    directory = tmp_path_factory.mktemp("page-history")
    with archive(stack.clickhouse.url, **KEEP) as (_, config):
        insert(config, rows())
        settings = {"CLICKHOUSE_URL": config.clickhouse_url, "KAFKA_GROUP_PROTOCOL": "consumer"}
        with (
            sync_playwright() as driver,
            Service(directory, stack, **settings, **KEEP, ARCHIVE_LINGER="100ms") as service,
        ):
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            found = Dashboard(service, browser)
            service.token = found.token("stats:read ops:read history:read ws:connect")
            found.start()
            yield found
            browser.close()


def rest(dashboard: Dashboard, path: str, **params: Any) -> Any:
    answer = dashboard.service.get(f"/api/tokens/{path}", **params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def legends(page: Page) -> list[str]:
    """Return the legend's text of each candle, from left to right."""
    box = page.locator("#chart").bounding_box()
    assert box is not None
    found: list[str] = []
    for x in range(int(box["width"])):
        page.mouse.move(box["x"] + x, box["y"] + box["height"] / 3)
        text = page.inner_text("#chart-legend")
        if text not in found:
            found.append(text)
    return found


def drag_right(page: Page) -> None:
    """Drag the chart to show older candles."""
    box = page.locator("#chart").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 20, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 100, box["y"] + 100, steps=5)
    page.mouse.up()


def test_a_quiet_token_has_its_candles_and_trades(archived: Dashboard) -> None:
    with archived.visit() as visit:
        page = visit.open("/tokens/ethereum:quiet?interval=1m")
        chart = page.locator("#chart")
        newest = "of 1m of \u2068quiet\u2069, the newest closed at $150.00"
        expect(chart).to_have_attribute("aria-label", f"150 candles {newest}", timeout=WITHIN_MS)
        # Close to the oldest candle the page requests older ones, across another quiet day.
        drag_right(page)
        expect(chart).to_have_attribute("aria-label", f"151 candles {newest}", timeout=WITHIN_MS)
        expect(page.locator("#chart-note")).to_have_text("There are no older candles.")
        expect(page.locator("#trades tr")).to_have_count(100)
        expect(page.locator("#token-note")).to_contain_text("Last trade 2 d ago.")
        page.get_by_role("button", name="Older trades").click()
        expect(page.locator("#trades tr")).to_have_count(151)
        expect(page.locator("#trades-state")).to_have_text("There are no older trades.")
        expect(page.get_by_role("button", name="Older trades")).to_be_hidden()


def test_an_unknown_token_says_so_in_every_card(archived: Dashboard) -> None:
    with archived.visit() as visit:
        visit.outage = True  # The browser logs the 404.
        page = visit.open("/tokens/ethereum:nobody")
        expect(page.locator("#token-note")).to_have_text("No trade of this token is known.")
        expect(page.locator("#chart-note")).to_have_text("There are no candles of this token.")
        expect(page.locator("#trades-state")).to_have_text("There are no trades of this token.")


def test_trades_before_the_live_ones(archived: Dashboard) -> None:
    archived.swaps(*({"token": "busy", "amount_usd": str(n + 1)} for n in range(330)))
    archived.settled()
    with archived.visit() as visit:
        page = visit.open("/tokens/ethereum:busy")
        trades = page.locator("#trades tr")
        expect(trades).to_have_count(200, timeout=WITHIN_MS)
        older = page.get_by_role("button", name="Older trades")
        wait_until(
            lambda: len(rest(archived, "ethereum:busy/trades", limit=1000)["trades"]) == 330,
            60,
            "all trades over REST",
        )
        older.click()
        expect(trades).to_have_count(300)
        archived.swaps({"token": "busy", "amount_usd": "1000"})
        expect(trades).to_have_count(301, timeout=WITHIN_MS)
        older.click()
        expect(trades).to_have_count(331)
        titles = trades.locator("td:nth-child(5)").evaluate_all(
            "(all) => all.map((each) => Number(each.title))"
        )
        assert titles == [1000, *range(330, 0, -1)]


def test_the_hour_that_comes_twice_is_drawn_twice(archived: Dashboard) -> None:
    with archived.visit(timezone_id="Europe/Berlin") as visit:
        page = visit.open("/tokens/ethereum:twice?interval=1m")
        expect(page.locator("#chart")).to_have_attribute(
            "aria-label",
            "20 candles of 1m of \u2068twice\u2069, the newest closed at $20.00",
            timeout=WITHIN_MS,
        )
        found = [text for text in legends(page) if "O $" in text]
        closes = [float(text.partition(" C $")[2].split()[0]) for text in found]
        # Without a candle under the pointer, the legend shows the newest.
        assert [each for each in closes if each != 20] == [float(n) for n in range(1, 20)]
        assert sum("CEST" in text for text in found) == 10
        assert sum("CET" in text for text in found) == 10


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "UTC"])
def test_a_day_candle_is_of_its_utc_day(archived: Dashboard, zone: str) -> None:
    days = rest(archived, "ethereum:days/daily", **{"from": BERLIN_MS - 2 * DAY_MS})["days"]
    assert len(days) == 5
    with archived.visit(timezone_id=zone) as visit:
        page = visit.open("/tokens/ethereum:days?interval=1d")
        page.get_by_text("The newest candles as a table").click()
        names = page.locator("#candle-table tbody th")
        expect(names).to_have_count(5, timeout=WITHIN_MS)
        wanted = [f"{dt.date.fromisoformat(each['day']):%-d %b %Y} (UTC day)" for each in days]
        assert names.all_inner_texts() == wanted[::-1]


def test_hours_are_the_readers_with_their_zone(archived: Dashboard) -> None:
    with archived.visit(timezone_id="Asia/Kolkata") as visit:
        page = visit.open("/tokens/ethereum:twice?interval=1h")
        page.get_by_text("The newest candles as a table").click()
        local = ZoneInfo("Asia/Kolkata")
        hours = sorted({ms // HOUR_MS * HOUR_MS for ms in (BERLIN_MS - 1, BERLIN_MS + HOUR_MS - 1)})
        wanted = [
            f"{dt.datetime.fromtimestamp(ms / 1000, local):%-d %b %Y, %H:%M} GMT+5:30"
            for ms in hours
        ]
        names = page.locator("#candle-table tbody th")
        expect(names).to_have_count(2, timeout=WITHIN_MS)
        assert names.all_inner_texts() == wanted[::-1]
