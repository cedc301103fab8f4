"""One token's stream: contiguous `n`, whatever NATS does with batches and histories."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.contracts.intervals import INTERVALS_MS
from aggregator.contracts.swaps import TRADES_A_MINUTE
from aggregator.contracts.trades import TokenHistory, TradeBatch
from api.trades.stream import KEPT, Gap, Step, TokenStream
from tests.unit.sockets.trading import START, Seller, rows_of, trade

AS_OF = START + 3_600_000


class Reader:
    """A client of the stream: fails if a trade is repeated, or is missing without a gap."""

    def __init__(self) -> None:
        self.n: int | None = None
        self.offsets: dict[int, int] = {}

    def start(self, stream: TokenStream) -> None:
        self.offsets = {each.n: each.offset for each in stream.trades}
        self.n = stream.n

    def take(self, stream: TokenStream, step: Step) -> None:
        if self.n is None:
            if stream.live:
                self.start(stream)
            return
        if step.gap is not None:
            if step.gap.restarted:
                self.start(stream)
                return
            assert step.gap.from_n == self.n + 1
            assert step.gap.to_n is not None
            assert step.gap.to_n >= step.gap.from_n
            self.n = step.gap.to_n
        for each in step.trades:
            assert each.n == self.n + 1, "not the next one"
            self.n = each.n
            self.offsets[each.n] = each.offset


def live(seller: Seller) -> TokenStream:
    stream = TokenStream("e:t")
    stream.history(seller.history(), AS_OF, 0)
    return stream


def test_batches_before_the_history_are_applied_after_it() -> None:
    seller = Seller()
    seller.sell(3)
    stream = TokenStream("e:t")
    answer = seller.history()
    assert stream.batch(seller.sell(2), 0) == Step()
    step = stream.history(answer, AS_OF, 0)
    assert [each.n for each in step.trades] == [4, 5]
    assert (stream.n, stream.wants_history) == (5, False)
    assert [each.n for each in stream.trades] == [1, 2, 3, 4, 5]


def test_a_repeat_is_dropped() -> None:
    seller = Seller()
    batch = seller.sell(3)
    stream = live(seller)
    assert stream.batch(batch, 0) == Step()
    again = seller.batch([*seller.trades[1:], trade(4)])
    assert [each.n for each in stream.batch(again, 0).trades] == [4]


def test_a_hole_is_filled_from_the_history() -> None:
    seller = Seller()
    stream = live(seller)
    seller.sell(2)
    late = seller.sell(1)
    assert stream.batch(late, 0) == Step()
    assert stream.wants_history
    step = stream.history(seller.history(), AS_OF, 0)
    assert (step.gap, [each.n for each in step.trades]) == (None, [1, 2, 3])


def test_a_hole_longer_than_the_history_is_a_gap() -> None:
    seller = Seller()
    seller.sell(5)
    stream = live(seller)
    seller.sell(300)
    stream.batch(seller.sell(1), 0)
    step = stream.history(seller.history(), AS_OF, 0)
    assert step.gap == Gap(6, 106, False)
    assert [each.n for each in step.trades] == list(range(107, 307))
    assert len(stream.trades) == KEPT


def test_a_new_owner_that_continues_the_numbering_leaves_no_trace() -> None:
    seller = Seller()
    seller.sell(5)
    stream = live(seller)
    seller.restart()
    assert stream.batch(seller.batch(seller.trades[-2:]), 0) == Step()
    assert stream.wants_history
    step = stream.history(seller.history(), AS_OF, 0)
    assert (step.gap, step.trades, stream.epoch) == (None, [], 2)
    assert [each.n for each in stream.batch(seller.sell(1), 0).trades] == [6]


@pytest.mark.parametrize("count", [1, 4, 5, 6, 250])
def test_a_restarted_numbering_is_reported(count: int) -> None:
    seller = Seller()
    seller.sell(5)
    stream = live(seller)
    seller.forget()
    stream.batch(seller.sell(count, START + 1), 0)
    step = stream.history(seller.history(), AS_OF, 0)
    assert step.gap is not None
    if count < 206:
        assert step.gap.restarted
        assert step.gap.from_n == 6
    assert [each.offset for each in stream.trades] == [each.offset for each in seller.trades[-200:]]


def test_an_overtaken_answer_is_not_a_restarted_numbering() -> None:
    seller = Seller()
    seller.sell(3)
    stream = live(seller)
    overtaken = TokenHistory("e:t", 0, 1, 3, rows_of(seller.trades), [])
    stream.batch(seller.sell(2), 0)
    step = stream.history(overtaken, AS_OF, 0)
    assert (step.gap, stream.n) == (None, 5)


def test_messages_of_an_older_owner_are_dropped() -> None:
    seller = Seller()
    seller.sell(3)
    old = seller.batch([trade(4)])
    old_history = seller.history()
    stream = live(seller)
    seller.restart()
    stream.batch(seller.sell(1), 0)
    assert stream.batch(old, 0) == Step()
    assert stream.history(old_history, AS_OF, 0) == Step()


def test_an_unknown_token_starts_with_its_first_trade() -> None:
    seller = Seller()
    stream = TokenStream("e:t")
    stream.begin_empty()
    assert stream.live
    stream.batch(seller.sell(2), 0)
    step = stream.history(seller.history(), AS_OF, 0)
    assert (step.gap, [each.n for each in step.trades]) == (None, [1, 2])


def test_first_trades_during_an_outage_of_nats_are_new() -> None:
    seller = Seller()
    stream = TokenStream("e:t")
    stream.begin_empty()
    seller.sell(7)
    stream.suspect()
    step = stream.history(seller.history(), AS_OF, 0)
    assert (step.gap, [each.n for each in step.trades]) == (None, [1, 2, 3, 4, 5, 6, 7])


def test_first_trades_missing_from_the_history_are_a_gap() -> None:
    stream = TokenStream("e:t")
    stream.begin_empty()
    first = 5 * TRADES_A_MINUTE + 1
    step = stream.history(TokenHistory("e:t", 0, 1, first + 2, [], []), AS_OF, 0)
    assert step.gap == Gap(first, first + 2, False)


def test_the_first_trade_may_have_any_number() -> None:
    seller = Seller()
    stream = live(seller)
    first = trade(5 * TRADES_A_MINUTE + 1)
    stream.batch(seller.batch([first]), 0)
    known = TokenHistory("e:t", 0, 1, first.n, rows_of([first]), [first])
    step = stream.history(known, AS_OF, 0)
    assert (step.gap, [each.n for each in step.trades]) == (None, [first.n])


@pytest.mark.parametrize(
    ("n", "offset", "gap", "first", "whole"),
    [
        pytest.param(300, None, None, None, False, id="nothing newer"),
        pytest.param(295, None, None, 296, False, id="some newer"),
        pytest.param(295, 2950, None, 296, False, id="the same trade"),
        pytest.param(295, 2951, Gap(296, None, True), 101, True, id="another trade"),
        pytest.param(301, None, Gap(302, None, True), 101, True, id="more than there are"),
        pytest.param(100, None, None, 101, False, id="exactly what is kept"),
        pytest.param(90, None, Gap(91, 100, False), 101, False, id="before what is kept"),
        pytest.param(0, None, Gap(1, 100, False), 101, False, id="from the start"),
    ],
)
def test_resume(
    n: int, offset: int | None, gap: Gap | None, first: int | None, whole: bool
) -> None:
    seller = Seller()
    seller.sell(300)
    given = live(seller).resume(n, offset)
    assert (given.gap, given.whole) == (gap, whole)
    numbers = [each.n for each in given.trades]
    assert numbers == (list(range(first, 301)) if first else [])


def arrivals(draw: random.Random, seller: Seller, steps: int) -> list[TradeBatch | TokenHistory]:
    """What NATS may deliver: lost, repeated and late messages, and changing owners."""
    delivered: list[TradeBatch | TokenHistory] = []
    for _ in range(steps):
        kind = draw.random()
        if kind < 0.75:
            at = START + draw.randrange(-90_000, 90_000)
            price = draw.choice(["1", "2.5", "3", None])
            batch = seller.sell(draw.randrange(1, 4), at, price)
            delivered += [batch] * draw.choice([0, 1, 1, 1, 2])
        elif kind < 0.92:
            delivered.append(seller.history())
        elif kind < 0.97:
            seller.restart()
        else:
            seller.forget()
    for _ in range(len(delivered) // 5):
        place = draw.randrange(len(delivered))
        delivered.insert(draw.randrange(len(delivered)), delivered.pop(place))
    return delivered


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.booleans())
def test_a_client_sees_each_trade_once_or_gets_a_gap(seed: int, steps: int, unknown: bool) -> None:
    seller, stream, reader = Seller(), TokenStream("e:t"), Reader()
    if unknown:
        stream.begin_empty()
        reader.take(stream, Step(loaded=True))
    for message in arrivals(random.Random(seed), seller, steps):
        if isinstance(message, TradeBatch):
            reader.take(stream, stream.batch(message, 0))
        else:
            reader.take(stream, stream.history(message, AS_OF, 0))
    seller.sell(1, START + 100_000)
    stream.suspect()
    reader.take(stream, stream.history(seller.history(), AS_OF, 0))
    assert not stream.wants_history
    assert reader.n == stream.n == seller.n
    for each in seller.trades[-200:]:
        assert reader.offsets.get(each.n, each.offset) == each.offset
    fresh = TokenStream("e:t")
    fresh.history(seller.history(), AS_OF, 0)
    for interval in INTERVALS_MS.values():
        assert stream.candles.newest(interval, 500) == fresh.candles.newest(interval, 500)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-150_000, 150_000),
            st.sampled_from(["1", "2.5", "0.3", None]),
            st.booleans(),
        ),
        min_size=1,
        max_size=60,
    ),
    st.integers(0, 60),
)
def test_folded_candles_are_those_of_the_owner(
    trades: list[tuple[int, str | None, bool]], loaded: int
) -> None:
    """Whatever was loaded and folded; if folding is impossible, `wrong` is set."""
    seller = Seller()
    stream = TokenStream("e:t")
    for number, (at, price, valued) in enumerate(trades):
        if number == min(loaded, len(trades) - 1):
            stream.history(seller.history(), AS_OF, 0)
        batch = seller.sell(1, START + at, price)
        if not valued:
            seller.trades[-1] = msgspec.structs.replace(seller.trades[-1], amount_usd=None)
            batch = seller.batch([seller.trades[-1]])
        stream.batch(batch, 0)
    if stream.candles.wrong:
        return
    fresh = TokenStream("e:t")
    fresh.history(seller.history(), AS_OF, 0)
    for interval in INTERVALS_MS.values():
        assert stream.candles.newest(interval, 500) == fresh.candles.newest(interval, 500)
