"""The price of a token: medians of medians, held where the pools do not confirm a move."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.pricing.reference import ONE, STALE_S, WINDOW_S, Reference, middle

USD = 10**6
T0 = 1_700_000_000


def at_2000(*pools: str, swaps: int = 10) -> Reference:
    """A reference whose pools each traded at 2,000 USD just before T0."""
    reference = Reference()
    for second in range(swaps, 0, -1):
        for pool in pools:
            reference.observe(pool, 2000 * ONE, 1_000 * USD, T0 - second)
    assert reference.at(T0) == 2000 * ONE
    return reference


def later(reference: Reference, moves: dict[str, int], value: int = 1_000) -> int | None:
    """The price a window later, once the pools in `moves` trade at theirs, the others at 2,000."""
    for second in range(1, 11):
        for pool in ("a", "b", "c"):
            if pool in reference._pools:
                price = moves.get(pool, 2000) * ONE
                reference.observe(pool, price, value * USD, T0 + WINDOW_S + second)
    return reference.at(T0 + WINDOW_S + 11)


@pytest.mark.parametrize(
    ("pools", "moves", "price", "held"),
    [
        pytest.param("abc", {"a": 2100}, 2000, 0, id="one of three by 5 %: outvoted"),
        pytest.param("abc", {"a": 2100, "b": 2100}, 2100, 0, id="two of three by 5 %: taken"),
        pytest.param("ab", {"a": 2100}, 2050, 0, id="one of two by 5 %: half of it"),
        pytest.param("ab", {"a": 2440}, 2000, 1, id="one of two by 22 %: held"),
        pytest.param("ab", {"a": 2400, "b": 2400}, 2400, 0, id="both by 20 %: taken"),
        pytest.param("abc", {"a": 1340, "b": 1340}, 2000, 1, id="two of three by a third: held"),
        pytest.param("abc", {"a": 1340, "b": 1340, "c": 1340}, 1340, 0, id="all by a third: taken"),
        pytest.param("abc", {"a": 900}, 2000, 0, id="one of three dumped to half: outvoted"),
    ],
)
def test_a_move_beyond_a_tenth_needs_every_pool(
    pools: str, moves: dict[str, int], price: int, held: int
) -> None:
    reference = at_2000(*pools)
    assert later(reference, moves) == price * ONE
    assert reference.held == held


def test_a_million_in_one_pool_is_one_voice() -> None:
    reference = at_2000("a", "b", "c")
    assert later(reference, {"a": 1340, "b": 2000}, value=1_000_000) == 2000 * ONE


def test_in_a_pool_a_whale_weighs_a_fifth() -> None:
    reference = at_2000("a", "b", swaps=5)
    # 20 % of each pool's window is less than the other swaps together.
    for pool in "ab":
        reference.observe(pool, 1000 * ONE, 4_000 * USD, T0)
    assert reference.at(T0 + 1) == 2000 * ONE


def test_a_swap_counts_from_the_next_block_time() -> None:
    reference = at_2000("a", "b")
    for pool in "ab":
        reference.observe(pool, 2100 * ONE, 100_000 * USD, T0)
    assert reference.at(T0) == 2000 * ONE


def test_a_swap_under_50_usd_is_ignored() -> None:
    reference = Reference()
    for pool in "ab":
        reference.observe(pool, 2000 * ONE, 50 * USD - 1, T0)
    assert reference.at(T0 + 1) is None
    for pool in "ab":
        reference.observe(pool, 2000 * ONE, 50 * USD, T0 + 1)
    assert reference.at(T0 + 2) == 2000 * ONE


def test_the_first_price_needs_two_pools_that_agree() -> None:
    reference = Reference()
    reference.observe("a", 2000 * ONE, 1_000 * USD, T0)
    assert reference.at(T0 + 1) is None
    reference.observe("b", 3000 * ONE, 1_000 * USD, T0 + 1)
    assert reference.at(T0 + 2) is None
    reference.observe("c", 2000 * ONE, 1_000 * USD, T0 + 2)
    assert reference.at(T0 + 3) is None, "b still disagrees"
    assert reference.at(T0 + 2 + WINDOW_S) is None, "c alone is left"
    reference.observe("a", 2010 * ONE, 1_000 * USD, T0 + 2 + WINDOW_S)
    assert reference.at(T0 + 3 + WINDOW_S) is None, "c has left the window"
    reference.observe("b", 2020 * ONE, 1_000 * USD, T0 + 3 + WINDOW_S)
    assert reference.at(T0 + 4 + WINDOW_S) == 2015 * ONE


def test_a_price_lasts_10_minutes_after_its_newest_swap() -> None:
    reference = at_2000("a", "b")
    assert reference.at(T0 - 1 + STALE_S) == 2000 * ONE
    assert reference.at(T0 + STALE_S) is None
    assert reference.newest_s == T0 - 1
    reference.observe("a", 2050 * ONE, 1_000 * USD, T0 + STALE_S)
    assert reference.at(T0 + STALE_S + 1) == 2050 * ONE, "within 10 % of the anchor"


def test_a_held_price_ends_too() -> None:
    reference = at_2000("a", "b")
    for second in range(STALE_S + 30):
        reference.observe("a", 3000 * ONE, 1_000 * USD, T0 + second)
        price = reference.at(T0 + second + 1)
    assert price is None
    assert reference.held > 0


swaps = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(1, 10**7),  # price in cents
        st.integers(50, 10**9),  # USD
        st.integers(0, 200),  # seconds since the swap before
    ),
    max_size=40,
)


@settings(max_examples=50)
@given(attack=swaps)
def test_one_pool_never_moves_the_price_by_more_than_a_tenth(
    attack: list[tuple[str, int, int, int]],
) -> None:
    """Pools b and c trade at 2,000 whenever a trades at whatever it likes, or not at all."""
    reference, now_s = at_2000("a", "b", "c"), T0
    for others, price, value, pause_s in attack:
        now_s += pause_s
        reference.observe("a", price * ONE // 100, value * USD, now_s)
        if others != "a":  # sometimes only the attacker trades
            reference.observe(others, 2000 * ONE, 1_000 * USD, now_s)
        said = reference.at(now_s + 1)
        now_s += 1
        assert said is None or 1800 * ONE <= said <= 2200 * ONE


@settings(max_examples=50)
@given(swaps)
def test_a_replay_says_the_same_and_the_price_is_in_the_pools_range(
    seen: list[tuple[str, int, int, int]],
) -> None:
    one, two, now_s, said = Reference(), Reference(), T0, []
    for pool, price, value, pause_s in seen:
        now_s += pause_s
        one.observe(pool, price * ONE // 100, value * USD, now_s)
        said.append(one.at(now_s + 1))
        assert said[-1] is None or said[-1] <= max(each[1] for each in seen) * ONE // 100
    now_s = T0
    for (pool, price, value, pause_s), before in zip(seen, said, strict=True):
        now_s += pause_s
        two.observe(pool, price * ONE // 100, value * USD, now_s)
        assert two.at(now_s + 1) == before
    assert one.held == two.held


@settings(max_examples=30)
@given(st.lists(st.integers(1, 10**30), min_size=1, max_size=9))
def test_the_middle_is_the_median(prices: list[int]) -> None:
    below = sum(price <= middle(sorted(prices)) for price in prices)
    above = sum(price >= middle(sorted(prices)) for price in prices)
    assert 2 * below >= len(prices)
    assert 2 * above >= len(prices)
