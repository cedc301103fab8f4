"""The dashboard with hostile or unusual input: names, prices, addresses, clicks, long lists."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.dashboard import Dashboard
from tests.support.processes import wait_until

pytestmark = [pytest.mark.engines, pytest.mark.timeout(180)]

WITHIN_S = 30
LONG = "\u202e" + "W" * 63
CHAIN = "solana"


def priced(token: str, *prices: str, amount: str = "1", **fields: Any) -> list[dict[str, Any]]:
    """Produce one swap with each price."""
    return [
        {"token": token, "amount_usd": price, "amount": amount, "chain": CHAIN} | fields
        for price in prices
    ]


def width_of(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth"))


def lit_rows(page: Page, colour: str) -> int:
    """Return how many pixel rows of the chart contain this colour of the style sheet."""
    return int(
        page.evaluate(
            """(name) => {
              const probe = document.body.appendChild(document.createElement("i"));
              probe.style.color = `var(--${name})`;
              const wanted = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
              probe.remove();
              const rows = new Set();
              // The first cell of the library's table is the pane, the second its axis.
              for (const canvas of document.querySelectorAll("#chart td:nth-child(2) canvas")) {
                const { width, height } = canvas;
                const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
                for (let at = 0; at < data.length; at += 4) {
                  const near = wanted.every((each, part) => Math.abs(each - data[at + part]) < 12);
                  if (near && data[at + 3] > 200) rows.add(Math.floor(at / 4 / width));
                }
              }
              return rows.size;
            }""",
            colour,
        )
    )


@pytest.mark.parametrize("width", [1360, 1280, 390])
def test_a_hostile_symbol_stays_in_its_cell(dashboard: Dashboard, width: int) -> None:
    dashboard.swaps(
        *priced("long", "10", symbol=LONG),
        *priced("bidi", "9", symbol="\u202eDIAP"),
        *priced("plain", "8", symbol="PLAIN"),
    )
    dashboard.settled()
    with dashboard.visit(viewport={"width": width, "height": 900}) as visit:
        page = visit.open(f"/?chain={CHAIN}")
        # Decoding has removed the override, so the letters stand as they were written.
        for token, shown in (("long", "W" * 63), ("bidi", "DIAP")):
            name = page.locator(f"[data-token='{CHAIN}:{token}'] .name")
            expect(name.locator("a bdi")).to_have_text(shown)
            expect(name.locator("bdi.chain")).to_have_text(CHAIN)
        boxes = page.locator("#rows th.name").evaluate_all(
            "(all) => all.map((each) => each.getBoundingClientRect().width)"
        )
        assert max(boxes) < 300
        assert width_of(page) == width

        visit.open(f"/tokens/{CHAIN}:long")
        expect(page.get_by_role("heading", level=1)).to_have_text("W" * 63)
        expect(page.locator("#trades tr").first).to_be_visible()
        assert width_of(page) == width
        assert "\u202e" not in page.title()
        assert len(page.title()) < 60


@pytest.mark.parametrize("symbol", ["", " ", "\u200b\u2060"], ids=["empty", "blank", "invisible"])
def test_a_token_without_a_visible_symbol_can_be_clicked(dashboard: Dashboard, symbol: str) -> None:
    token = f"0xabcdef{len(symbol)}0000000000000000000000000000000123"
    dashboard.swaps(*priced(token, "7", symbol=symbol))
    dashboard.settled()
    with dashboard.visit() as visit:
        page = visit.open(f"/?chain={CHAIN}&q={token}")
        page.get_by_role("link", name="0xabcd…0123").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("0xabcd…0123")


def test_a_price_of_1e_17_has_candles_and_labels(dashboard: Dashboard) -> None:
    # The candle's body extends from 3e-17 down to 1e-17.
    amount = "100000000000000000"
    dashboard.swaps(*priced("tiny", "3", "2", "1", amount=amount, symbol="TINY"))
    dashboard.settled()
    with dashboard.visit(color_scheme="light") as visit:
        page = visit.open(f"/tokens/{CHAIN}:tiny")
        expect(page.locator("#token-price")).to_have_text("$0.0₁₆1000")
        expect(page.locator("#chart-legend")).to_contain_text("$0.0₁₆1000")
        wait_until(
            lambda: page.wait_for_timeout(50) or lit_rows(page, "down") > 40,
            WITHIN_S,
            "a candle that is more than a line",
        )


@pytest.mark.parametrize(
    ("token", "usd", "amount"),
    [
        pytest.param("flat-tiny", "1.2", "100000000000000000", id="1.2e-17"),
        pytest.param("flat", "50", "1", id="50"),
        pytest.param("flat-huge", "9999900000", "0.001", id="9.9999e12"),
    ],
)
def test_a_flat_price_has_an_axis(dashboard: Dashboard, token: str, usd: str, amount: str) -> None:
    dashboard.swaps(*priced(token, usd, usd, amount=amount, symbol="FLAT"))
    dashboard.settled()
    with dashboard.visit() as visit:
        visit.page.add_init_script(
            """const write = CanvasRenderingContext2D.prototype.fillText;
            window.written = new Set();
            CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
              if (text.includes("$")) window.written.add(`${text} @ ${Math.round(place[1])}`);
              return write.call(this, text, ...place);
            };"""
        )
        page = visit.open(f"/tokens/{CHAIN}:{token}")

        def labels() -> list[str]:
            page.wait_for_timeout(50)  # Lets the driver process its events.
            found = page.evaluate("[...window.written]")
            return [text.partition(" @ ")[0] for text in found]

        wait_until(lambda: len(labels()) > 3, WITHIN_S, "labels on the axis")
        # The current price has a separate label.
        assert len(set(labels())) >= len(labels()) - 1, labels()
        assert all(text.startswith("$") for text in labels()), labels()


def test_huge_numbers_are_shortened_and_push_nothing_out(dashboard: Dashboard) -> None:
    dashboard.swaps(
        *priced("huge", "9999900000", amount="0.001", symbol="HUGE", trader="0x" + "ab" * 20),
        *priced("bulk", "50", amount="1" + "0" * 18, symbol="BULK", trader="0x" + "ab" * 20),
    )
    dashboard.settled()
    with dashboard.visit(viewport={"width": 1360, "height": 900}) as visit:
        page = visit.open(f"/?chain={CHAIN}&q=huge")
        expect(page.locator(f"[data-token='{CHAIN}:huge'] td.price")).to_have_text("$10.00T")
        visit.open(f"/tokens/{CHAIN}:bulk")
        expect(page.locator("#trades td").nth(2)).to_have_text("1.00×10¹⁸")  # noqa: RUF001
        ends = page.evaluate(
            """() => [document.querySelector("#trades td:last-child"),
                      document.querySelector(".trades-card")]
                      .map((each) => each.getBoundingClientRect().right)"""
        )
        assert ends[0] <= ends[1]


def test_invalid_parameters_of_the_address_fall_back_and_are_reported(dashboard: Dashboard) -> None:
    dashboard.settled()
    with dashboard.visit() as visit:
        page = visit.open(
            "/?window=7d&sort=bogus&order=up&limit=7&min_trades=-3&min_volume_usd=1e999&chain=!"
            "&windw=1&utm_source=x"
        )
        said = page.locator("#list-asked")
        for fault in (
            "there is no “windw”",
            "window cannot be “7d”",
            "sort cannot be “bogus”",
            "order cannot be “up”",
            "rows cannot be “7”",
            "trades from cannot be “-3”",
            "volume from cannot be “1e999”",
            "chain cannot be “!”",
        ):
            expect(said).to_contain_text(fault)
        expect(said).not_to_contain_text("utm")
        expect(page).to_have_url(f"{visit.origin}/")
        expect(page.locator("[name=window][value='24h']")).to_be_checked()
        expect(page.locator("[name=sort]")).to_have_value("volume_usd")
        expect(page.locator("#rows td.volume").first).to_have_text(re.compile(r"^\$\d"))
        page.locator("#windows [value='1h']").check()
        expect(said).to_be_hidden()


def test_the_interval_stays_in_the_address(dashboard: Dashboard) -> None:
    dashboard.settled()
    with dashboard.visit() as visit:
        page = visit.open("/tokens/ethereum:T1?interval=7m")
        expect(page.locator("#token-asked")).to_contain_text("candles of “7m”")
        expect(page.locator("#intervals [value='15m']")).to_be_checked()
        page.locator("#intervals [value='1h']").check()
        expect(page).to_have_url(re.compile(r"\?interval=1h$"))
        expect(page.locator("#token-asked")).to_be_empty()
        page.reload()
        expect(page.locator("#intervals [value='1h']")).to_be_checked()
        expect(page.locator("#chart")).to_have_attribute("aria-label", re.compile("candles of 1h"))


def test_an_address_of_no_token_says_so(dashboard: Dashboard) -> None:
    with dashboard.visit() as visit:
        page = visit.open("/tokens/foo")
        expect(page.locator("#token-note")).to_contain_text("not the address of a token")
        expect(page.locator(".token-grid")).to_be_hidden()
        page.keyboard.press("Escape")
        expect(page.locator("#rows tr").first).to_be_visible()
    missing = httpx.get(f"{dashboard.origin}/nothing")
    assert missing.status_code == 404
    assert "No such page" in missing.text


def test_a_row_is_clickable_wherever_it_is(dashboard: Dashboard) -> None:
    dashboard.settled()
    with dashboard.visit() as visit:
        page = visit.open("/?chain=ethereum&q=T1")
        volume = page.locator("#rows td.volume").first
        for options in ({"modifiers": ["Control"]}, {"button": "middle"}):
            with page.context.expect_page() as opened:
                volume.click(**options)
            expect(opened.value).to_have_url(re.compile("/tokens/ethereum"))
            opened.value.close()
        expect(page).to_have_url(re.compile(r"q=T1$"))

        box = volume.bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] - 2, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + 10, middle, steps=5)
        page.mouse.up()
        assert page.evaluate("getSelection().toString()").strip()
        expect(page).to_have_url(re.compile(r"q=T1$"))

        page.evaluate("getSelection().removeAllRanges()")
        volume.click()
        expect(page.get_by_role("heading", name="T1", level=1)).to_be_focused()


def test_changes_stand_side_by_side_and_the_line_agrees(dashboard: Dashboard) -> None:
    rising, falling = ("5", "3", "6", "7"), ("5", "9", "3", "4")
    dashboard.swaps(*priced("rise", *rising), *priced("fall", *falling))
    dashboard.settled()
    with dashboard.visit(viewport={"width": 1360, "height": 900}) as visit:
        page = visit.open(f"/?chain={CHAIN}")
        for token, side, text in (("rise", "up", "▲ +40.00%"), ("fall", "down", "▼ −20.00%")):  # noqa: RUF001
            row = page.locator(f"[data-token='{CHAIN}:{token}']")
            for window in ("5m", "1h", "24h"):
                expect(row.locator(f".in-{window}")).to_have_text(text)
            row.scroll_into_view_if_needed()
            line = row.locator("svg")
            expect(line).to_have_class(f"sparkline {side}", timeout=WITHIN_S * 1_000)
            expect(line).to_have_attribute("aria-label", re.compile("in 24 hours: from \\$5.000"))
        page.get_by_role("button", name="Change 1h").click()
        expect(page.get_by_role("columnheader", name="Change 1h")).to_have_attribute(
            "aria-sort", "descending"
        )
        expect(page.locator("[name=window][value='1h']")).to_be_checked()


def test_every_token_can_be_reached(dashboard: Dashboard) -> None:
    many = [
        each
        for n in range(160)
        for each in priced(f"many{n:03}", str(1_000 - n), chain="base", symbol=f"M{n:03}")
    ]
    dashboard.swaps(*many)
    dashboard.settled()
    with dashboard.visit() as visit:
        page = visit.open("/?chain=base&limit=25")
        rows = page.locator("#rows tr")
        expect(rows).to_have_count(25)
        more = page.get_by_role("button", name="Show more")
        more.click()
        expect(rows).to_have_count(125)
        more.click()
        expect(rows).to_have_count(160)
        expect(more).to_be_hidden()
        expect(page.locator("#list-note")).to_contain_text("160 of 160 tokens.")
        order = "(all) => all.map((each) => each.dataset.token)"
        assert rows.evaluate_all(order) == [f"base:many{n:03}" for n in range(160)]

        # One of the last rows rises to the top and pushes a live row out; none is lost. The order
        # is kept while the pointer is on a row.
        page.mouse.move(0, 0)
        dashboard.swaps(*priced("many150", "9000", chain="base", symbol="M150"))
        wait_until(
            lambda: rows.first.get_attribute("data-token") == "base:many150",
            WITHIN_S,
            "the new first",
        )
        assert sorted(rows.evaluate_all(order)) == [f"base:many{n:03}" for n in range(160)]
