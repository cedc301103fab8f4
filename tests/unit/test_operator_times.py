"""Days and instants as operators type them."""

from __future__ import annotations

import datetime as dt
from argparse import ArgumentTypeError
from collections.abc import Callable

import pytest

from aggregator.management.times import instant_ms, utc_day


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1700000000000", 1_700_000_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
        ("2023-11-14", 1_699_920_000_000),
    ],
)
def test_an_instant(text: str, ms: int) -> None:
    assert instant_ms(text) == ms


def test_a_day() -> None:
    assert utc_day("2023-11-14") == dt.date(2023, 11, 14)
    assert utc_day("today") - utc_day("yesterday") == dt.timedelta(days=1)


@pytest.mark.parametrize(("reads", "fix"), [(utc_day, "YYYY-MM-DD"), (instant_ms, "ISO 8601")])
@pytest.mark.parametrize("text", ["", "noon", "2023-13-01"])
def test_a_wrong_text_is_refused_with_the_fix(
    reads: Callable[[str], object], fix: str, text: str
) -> None:
    with pytest.raises(ArgumentTypeError, match=f"'{text}' is no .*{fix}"):
        reads(text)
