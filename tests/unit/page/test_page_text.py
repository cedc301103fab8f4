"""What the page writes for names, numbers and times, in every zone."""

from __future__ import annotations

import json

import pytest

from aggregator.contracts.units import HOUR_MS
from tests.unit.page.modules import evaluate

MARK = "\ufffd"
# Clocks in Berlin go back one hour at 01:00 UTC.
BERLIN_MS = 1_792_890_000_000


@pytest.mark.parametrize(
    ("symbol", "shown"),
    [
        pytest.param("USDC", "USDC", id="plain"),
        pytest.param("\u202eDIAP", f"{MARK}DIAP", id="bidi-override"),
        pytest.param("US\u200bDC", f"US{MARK}DC", id="zero-width"),
        pytest.param("A\x07B", f"A{MARK}B", id="control"),
        pytest.param("A\u3164B", f"A{MARK}B", id="filler"),
        pytest.param("\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05dc\u05d5\u05dd", id="hebrew"),
        pytest.param("\u2764\ufe0f", "\u2764\ufe0f", id="emoji"),
        pytest.param("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469", id="joined-emoji"),
        pytest.param("", "0x1234\u20267890", id="empty"),
        pytest.param(" \u3000 ", "0x1234\u20267890", id="blank"),
        pytest.param("\u200b\u2060", "0x1234\u20267890", id="invisible"),
        pytest.param(None, "0x1234\u20267890", id="unknown"),
    ],
)
def test_a_name_shows_what_is_in_it(symbol: str | None, shown: str) -> None:
    row = json.dumps({"symbol": symbol, "token": "0x12345678901234567890"})
    assert evaluate("names.js", f"m.nameOf({row})") == shown


def test_a_name_with_invisible_characters_is_explained() -> None:
    assert evaluate("names.js", r'm.warningOf("\u202eDIAP\u200b")') == (
        "Contains invisible characters: U+202E, U+200B."
    )
    assert evaluate("names.js", 'm.warningOf("USDC")') == ""


@pytest.mark.parametrize(
    ("price", "shown"),
    [
        ("0.000000000000000001", "$0.0₁₇1000"),
        ("0.000000000000000012", "$0.0₁₆1200"),
        ("0.00001234", "$0.0₄1234"),
        ("0.001234", "$0.001234"),
        ("1.5", "$1.500"),
        ("123456.789", "$123,456.79"),
        ("9999900000000", "$10.00T"),
        ("1000000000000", "$1.00T"),
        ("1234000000000000000", "$1.23×10¹⁸"),  # noqa: RUF001
    ],
)
def test_prices_of_every_size(price: str, shown: str) -> None:
    assert evaluate("format.js", f'm.price("{price}")') == shown


def test_labels_of_an_axis_are_all_different_and_short() -> None:
    axes = [
        (10.0**exponent, step) for exponent in range(-18, 13, 3) for step in (0.2, 0.02, 0.0005)
    ]
    asked = [[[(5 + step * n) * unit for n in range(8)], step * unit] for unit, step in axes]
    labelled = evaluate(
        "format.js",
        f"{json.dumps(asked)}.map(([all, step]) => all.map((x) => m.axisPrice(x, step)))",
    )
    for each in labelled:
        assert len(set(each)) == 8, each
        assert max(map(len, each)) <= 14, each
    assert evaluate("format.js", "m.axisPrice(-1, 1)") == ""


def test_long_amounts_and_changes_are_shortened() -> None:
    assert evaluate("format.js", 'm.amount("1000000000000000000000")') == "1.00×10²¹"  # noqa: RUF001
    assert evaluate("format.js", 'm.usd("0.0000012")') == "<$0.01"
    assert evaluate("format.js", "m.percent(2000000000000)") == "+2.00T%"


def test_the_hour_that_comes_twice_has_two_names() -> None:
    moments = evaluate(
        "times.js", f"[{BERLIN_MS - HOUR_MS}, {BERLIN_MS}].map(m.moment)", "Europe/Berlin"
    )
    assert moments == ["25 Oct 2026, 02:00 CEST", "25 Oct 2026, 02:00 CET"]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"])
def test_a_day_is_named_by_its_utc_day(zone: str) -> None:
    day = 1_792_886_400_000  # 2026-10-25T00:00Z
    assert evaluate("times.js", f"m.opening({day}, 86400000)", zone) == "25 Oct 2026 (UTC day)"
    assert evaluate("times.js", f"m.axisTime({day}, 2, 86400000)", zone) == "25 Oct"


def test_labels_under_the_chart_are_of_the_readers_clock() -> None:
    midnight = 1_792_800_000_000  # 2026-10-24T00:00Z
    label = f"m.axisTime({midnight}, 2, {HOUR_MS})"
    assert evaluate("times.js", label, "UTC") == "24 Oct"
    assert evaluate("times.js", label, "Asia/Kolkata") == "24 Oct, 05:30"
    local_midnight = f"m.axisTime({midnight + 4 * HOUR_MS}, 3, {HOUR_MS})"
    assert evaluate("times.js", local_midnight, "America/New_York") == "24 Oct"


def test_a_trade_of_another_day_has_its_date() -> None:
    now = BERLIN_MS
    assert evaluate("times.js", f"m.clock({now - 60_000}, {now})") == "00:59:00"
    assert evaluate("times.js", f"m.clock({now - 26 * HOUR_MS}, {now})") == "23 Oct, 23:00"


@pytest.mark.parametrize(
    ("token_id", "valid"),
    [
        ("ethereum:0xAb", True),
        ("Ethereum:WETH", True),
        ("foo", False),
        (":x", False),
        ("x:", False),
    ],
)
def test_a_token_id_is_checked_before_anybody_is_asked(token_id: str, valid: bool) -> None:
    assert (evaluate("addresses.js", f'm.faultOf("{token_id}")') == "") is valid


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("too_many_connections", "Too many connections are open with this token"),
        ("origin_not_allowed", "The service does not allow this page's origin"),
        ("maintenance", "The service refuses the connection: back at noon."),
    ],
)
def test_a_refused_connection_says_why_and_that_it_goes_on(code: str, sentence: str) -> None:
    detail = json.dumps({"code": code, "reason": "back at noon", "attempts": 3})
    text = evaluate("refusals.js", f"m.refusalText({detail})")
    assert text.startswith(sentence)
    assert text.endswith("Trying again (3 attempts so far).")
