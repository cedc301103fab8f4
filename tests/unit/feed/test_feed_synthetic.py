"""The generator of swaps: valid, repeatable, skewed as configured, with the given times."""

from __future__ import annotations

from collections import Counter
from itertools import islice, repeat

from aggregator.decoding.rules import decode_swap
from aggregator.feed.synthetic import Shape, present, spread, swaps

NOW = 1_760_000_000_000


def test_every_event_is_decoded_and_keyed_by_its_token() -> None:
    ids = set()
    for record in swaps(Shape(tokens=50, seed=1), repeat(NOW, 10_000)):
        swap = decode_swap(record.value, NOW, 0)
        assert record.key == swap.token_id.encode()
        assert record.timestamp == swap.timestamp == NOW
        assert swap.usd_micros is not None
        assert swap.price_usd is not None
        ids.add(swap.event_id)
    assert len(ids) == 10_000


def test_the_same_seed_gives_the_same_events_whatever_the_times_are_made_of() -> None:
    shape = Shape(tokens=20, seed=5)
    once = [record.value for record in swaps(shape, repeat(NOW, 5_000))]
    assert once == [record.value for record in islice(swaps(shape, repeat(NOW)), 5_000)]
    assert once != [r.value for r in swaps(Shape(tokens=20, seed=6), repeat(NOW, 5_000))]


def test_tokens_share_the_events_by_zipf() -> None:
    shares = Counter(r.key for r in swaps(Shape(tokens=100, zipf=1.0, seed=2), repeat(0, 50_000)))
    ranked = [number for _, number in shares.most_common()]
    assert len(ranked) == 100
    harmonic = sum(1 / rank for rank in range(1, 101))
    assert abs(ranked[0] / 50_000 - 1 / harmonic) < 0.01
    assert abs(ranked[0] / ranked[9] - 10) < 1.5
    even = Counter(r.key for r in swaps(Shape(tokens=10, zipf=0, seed=2), repeat(0, 50_000)))
    assert max(even.values()) < 1.1 * min(even.values())


def test_a_price_walks_and_stays_near_where_it_began() -> None:
    decoded = (decode_swap(r.value, NOW, 0) for r in swaps(Shape(tokens=1), repeat(NOW, 20_000)))
    prices = [swap.price_usd for swap in decoded if swap.price_usd]
    assert len(set(prices)) > 19_000
    assert prices[0] / 3 < min(prices) < max(prices) < prices[0] * 3


def test_spread_times_fill_the_span_out_of_order_and_never_lie_ahead() -> None:
    times = list(spread(10_000, NOW, 3_600_000, 20_000, seed=4))
    assert len(times) == 10_000
    assert NOW - 20_000 < max(times) <= NOW
    assert NOW - 3_620_000 <= min(times) < NOW - 3_600_000 + 1_000
    assert times != sorted(times)
    newest = 0
    for time in times:
        assert time > newest - 20_000
        newest = max(newest, time)
    assert list(spread(4, NOW, 4_000, 0, seed=4)) == [NOW - 3_000, NOW - 2_000, NOW - 1_000, NOW]


def test_present_times_are_those_of_the_moment_they_are_taken() -> None:
    clock = iter([5, 9, 12])
    times = present(3, lambda: next(clock))
    assert next(times) == 5
    assert list(times) == [9, 12]
    assert len(list(islice(present(None, lambda: 7), 100))) == 100
