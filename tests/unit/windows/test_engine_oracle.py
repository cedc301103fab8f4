"""Each window engine against the independent recomputation of `tests/support/oracle.py`.

A scenario is a log that is read while the wall clock moves: events in any order, early and late,
repeats, retractions, and minutes without events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.oracle import MINUTE
from tests.unit.windows.service import (
    GRACE,
    MAX_FUTURE,
    T0,
    Engine,
    Service,
    every_engine,
    swap_event,
)

pytestmark = every_engine


@dataclass(frozen=True)
class Read:
    """An event arrives that is `age` ms old (negative: of the future)."""

    age: int
    fields: dict[str, Any]
    on_edge: bool


@dataclass(frozen=True)
class Again:
    """The record `index` (modulo the log's length) is sent again, unchanged or retracted.

    `changes` are what is different in it.
    """

    index: int
    removed: bool
    changes: dict[str, Any]


@dataclass(frozen=True)
class Publish:
    """The clock moves on by `ms` and dirty tokens are published."""

    ms: int


TOKENS = ("AAA", "0xABCDEFabcdefABCDEFabcdefABCDEFabcdefABCD")
TRADERS = ("0x" + "A" * 40, "0x" + "a" * 40, "Bob", "bob", "carol")
usd = st.one_of(
    st.none(),
    st.sampled_from(["0", "0.0000005", "0.0000015", "1e3", "123456789012.345678"]),
    st.decimals("0.000001", "100000", places=6, allow_nan=False).map(str),
)
fields = st.fixed_dictionaries(
    {
        "token": st.sampled_from(TOKENS),
        "side": st.sampled_from(["buy", "sell"]),
        "amount": st.decimals("0.001", "100000", places=9, allow_nan=False).map(str),
        "amount_usd": usd,
    },
    optional={
        "price_usd": st.decimals("0.0001", "10000", places=4, allow_nan=False).map(str),
        "block_hash": st.sampled_from(["0xaa", "0xAA", "0xbb"]),
        "block_number": st.sampled_from([0, 1, 2**62]),
        "log_index": st.integers(0, 2),
        "trader": st.sampled_from(TRADERS),
        "symbol": st.sampled_from(["TKN", "tkn"]),
    },
)
reads = st.builds(
    Read,
    age=st.one_of(
        st.integers(-2 * MINUTE, 3 * MINUTE),
        st.integers(-MAX_FUTURE - 1_000, 12 * MINUTE),
        st.sampled_from([0, GRACE, GRACE + MINUTE, 7 * MINUTE, -MAX_FUTURE, -MAX_FUTURE - 1]),
    ),
    fields=fields,
    on_edge=st.booleans(),
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "amount": st.just("7"),
        "amount_usd": usd,
        "side": st.sampled_from(["buy", "sell"]),
        "trader": st.sampled_from(TRADERS),
        "block_hash": st.sampled_from(["0xaa", "0xbb", None]),
        "timestamp": st.integers(T0 - 20 * MINUTE, T0 + 20 * MINUTE),
    },
)
again = st.builds(Again, index=st.integers(0, 1_000), removed=st.booleans(), changes=changes)
publishes = st.builds(
    Publish,
    ms=st.one_of(
        st.integers(0, 90_000), st.sampled_from([1, MINUTE, 3 * MINUTE, 8 * MINUTE, 20 * MINUTE])
    ),
)
scenarios = st.lists(st.one_of(reads, reads, again, publishes), min_size=3, max_size=40)


def play(service: Service, steps: list[Read | Again | Publish]) -> None:
    for step in steps:
        if isinstance(step, Read):
            at = service.now - step.age
            # Half of the events lie exactly on a minute, where a wrong comparison shows.
            at = at // MINUTE * MINUTE if step.on_edge else at
            event = {**swap_event(at, len(service.log)), **step.fields}
            service.read(event, _partition(event))
        elif isinstance(step, Again) and service.log:
            repeated = service.log[step.index % len(service.log)].event
            event = {**repeated, **step.changes, "removed": step.removed}
            service.read(event, _partition(event))
        elif isinstance(step, Publish):
            service.publish(service.now + step.ms)
            service.assert_right()


def _partition(event: dict[str, Any]) -> int:
    return TOKENS.index(event["token"]) % 2


@settings(max_examples=200, deadline=None)
@given(scenarios)
def test_every_number_equals_the_recomputation_whenever_it_is_published(
    engine: Engine, steps: list[Read | Again | Publish]
) -> None:
    service = Service(engine, now=T0 + 30_000)
    play(service, steps)
    service.publish(service.now)
    service.assert_right()


@settings(max_examples=100, deadline=None)
@given(scenarios)
def test_with_no_new_trade_every_window_decays_to_nothing_minute_by_minute(
    engine: Engine, steps: list[Read | Again | Publish]
) -> None:
    service = Service(engine, now=T0)
    play(service, steps)
    # 14 minutes empty the longest window and its previous one; the rest is for future events.
    for _ in range(20):
        service.publish(service.now + MINUTE)
        service.assert_right()
    shown = [window for stats in service.board.values() for window in stats.windows.values()]
    assert all(window.trades == 0 for window in shown)
    assert all(window.previous is None or window.previous.trades == 0 for window in shown)
    assert all(one.bucket_count == 0 for one in service.engines.values())


@settings(max_examples=100, deadline=None)
@given(scenarios, st.randoms(use_true_random=False))
def test_the_order_of_events_within_the_grace_changes_no_number(
    engine: Engine, steps: list[Read | Again | Publish], rng: Any
) -> None:
    now = T0 + 30_000
    events = [
        {**swap_event(now - step.age % GRACE, number), **step.fields}
        for number, step in enumerate(step for step in steps if isinstance(step, Read))
    ]
    in_order, shuffled = Service(engine, now), Service(engine, now)
    # Events of equal time are ordered by offset, which shuffling changes: each gets its own ms.
    taken: set[int] = set()
    for event in events:
        while event["timestamp"] in taken:
            event["timestamp"] -= 1
        taken.add(event["timestamp"])
    for event in events:
        in_order.read(event, _partition(event))
    rng.shuffle(events)
    for event in events:
        shuffled.read(event, _partition(event))
    for service in (in_order, shuffled):
        service.publish(now)
        service.assert_right()
    for token, stats in in_order.board.items():
        assert stats.windows == shuffled.board[token].windows


@settings(max_examples=100, deadline=None)
@given(scenarios)
def test_forgetting_idle_tokens_changes_no_window(
    engine: Engine, steps: list[Read | Again | Publish]
) -> None:
    service = Service(engine, now=T0)
    for step in steps:
        play(service, [step] if not isinstance(step, Publish) else [])
        if isinstance(step, Publish):
            service.publish(service.now + step.ms, forget=True)
            service.assert_right(forgetful=True)


@settings(max_examples=50, deadline=None)
@given(scenarios)
def test_one_leap_of_the_clock_ends_where_many_small_steps_end(
    engine: Engine, steps: list[Read | Again | Publish]
) -> None:
    leaping, stepping = Service(engine, now=T0), Service(engine, now=T0)
    reading = [step for step in steps if not isinstance(step, Publish)]
    play(leaping, reading)
    play(stepping, reading)
    leaping.publish(T0 + 9 * MINUTE)
    for minute in range(1, 10):
        stepping.publish(T0 + minute * MINUTE)
    leaping.assert_right()
    stepping.assert_right()
