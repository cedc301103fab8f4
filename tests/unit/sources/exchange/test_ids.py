"""Which trades were seen: every repeat and every gap, against a set of numbers."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from sources.exchange import ids
from sources.exchange.ids import MOST_GAPS, NamedTrades, NumberedTrades
from sources.exchange.trades import ExchangeTrade, TradeGap

BEGIN_MS = 1_700_000_000_000


def trade(number: int | str, at_ms: int | None = None) -> ExchangeTrade:
    at_ms = BEGIN_MS + int(number) if at_ms is None else at_ms
    return ExchangeTrade("S", number, Decimal(1), Decimal(1), "buy", at_ms)


def numbers(seen: NumberedTrades) -> set[int]:
    return {number for gap in seen.gaps for number in range(gap.first, gap.last + 1)}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 60)),
        st.tuples(st.just("reveal"), st.integers(1, 60)),
        st.tuples(st.just("give up"), st.integers(1, 60)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS)
def test_agrees_with_a_set(steps: list[tuple[str, int]]) -> None:
    seen = NumberedTrades()
    newest: int | None = None
    missing: set[int] = set()
    for what, number in steps:
        if what == "take":
            new = newest is None or number > newest or number in missing
            assert seen.take(trade(number)) == new
            missing.discard(number)
        elif what == "give up":
            gap = TradeGap(number, number + 5, 0)
            gone = {each for each in missing if gap.first <= each <= gap.last}
            assert seen.missing(gap) == seen.give_up(gap) == len(gone)
            missing -= gone
        elif what == "restart":
            seen = NumberedTrades(seen.state()) if seen.started else NumberedTrades()
        elif newest is not None:
            seen.reveal(number)
        if what in {"take", "reveal"} and (newest is not None or what == "take"):
            if newest is not None:
                missing |= set(range(newest + 1, number + (what == "reveal")))
            newest = number if newest is None else max(newest, number)
        assert numbers(seen) == missing
        assert list(seen.gaps) == sorted(seen.gaps)
        assert seen.newest == newest


def test_a_gap_knows_the_time_before_it() -> None:
    seen = NumberedTrades()
    seen.take(trade(10))
    seen.take(trade(15))
    assert list(seen.gaps) == [TradeGap(11, 14, BEGIN_MS + 10)]


def test_more_gaps_than_the_bound_are_joined() -> None:
    seen = NumberedTrades()
    for number in range(0, 2 * MOST_GAPS + 20, 2):
        seen.take(trade(number))
    assert len(seen.gaps) == MOST_GAPS
    assert seen.gaps[-1].last == 2 * MOST_GAPS + 17


def test_a_venue_that_numbers_anew_is_followed_and_its_gaps_are_counted() -> None:
    seen = NumberedTrades()
    seen.take(trade(1_000))
    seen.take(trade(1_010))
    assert not seen.take(trade(5, BEGIN_MS + 1_010 + ids.RENUMBERED_MS))
    assert seen.take(trade(5, BEGIN_MS + 1_011 + ids.RENUMBERED_MS))
    assert (seen.renumbered, seen.lost, seen.newest, list(seen.gaps)) == (1, 9, 5, [])


def test_a_late_trade_of_a_gap_is_no_new_numbering() -> None:
    seen = NumberedTrades()
    seen.take(trade(1))
    seen.reveal(5)
    assert seen.take(trade(3, BEGIN_MS + 10 * ids.RENUMBERED_MS))
    assert seen.renumbered == 0


def test_named_trades_know_recent_repeats_and_whether_a_page_reaches_back() -> None:
    seen = NamedTrades()
    assert seen.take(trade("7"))
    assert seen.take(trade("9"))
    assert not seen.take(trade("7"))
    assert seen.reaches([trade("9")], "9", BEGIN_MS + 9)
    assert seen.reaches([trade("4")], "9", BEGIN_MS + 9)
    assert not seen.reaches([trade("11"), trade("12")], "9", BEGIN_MS + 9)
    again = NamedTrades(seen.state())
    assert (again.newest, again.time_ms, again.started) == ("9", BEGIN_MS + 9, True)


def test_named_trades_hold_a_bounded_number_of_names() -> None:
    seen = NamedTrades()
    for number in range(5_000):
        seen.take(trade(str(number)))
    assert not seen.take(trade("4999"))
    assert seen.take(trade("0"))
