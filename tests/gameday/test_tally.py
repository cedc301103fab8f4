"""The fast tally against the slow oracle, on random logs."""

from __future__ import annotations

import json
import random
from dataclasses import replace

from tests.gameday.events import MAX_FUTURE, PARTITIONS, Events, Jump, Record, token_ids
from tests.gameday.plan import KINDS, NOT_DRAWN, plan
from tests.gameday.tally import GRACE, MINUTE, Tally, window
from tests.gameday.verdict import WINDOWS
from tests.support.oracle import Logged, Rules, WindowNumbers, decide, home_of, recompute

NOW = 1_700_000_000_000


def _log(seed: int) -> tuple[Tally, list[Logged]]:
    """Eleven minutes of few tokens, with clocks that jump."""
    events, tally, log = Events(seed, 6), Tally(), []
    ends = [0] * PARTITIONS
    rng = random.Random(seed)
    for second in range(0, 660, 6):
        now = NOW + second * 1000
        off = rng.choice([Jump()] * 12 + [Jump(90_000, 90_000), Jump(600_000), Jump(-600_000)])
        records = events.some(9, now, off, partitioner=rng.choice(["murmur2"] * 9 + ["crc32"]))
        if rng.random() < 0.2:
            records.append(events.bad(now))
        for each in records:
            source = _append(tally, log, ends, each)
            if source is not None:
                # The service forwards it, perhaps once more after a crash.
                home = home_of(each.key, PARTITIONS)
                for _ in range(rng.choice([1, 1, 2])):
                    _append(tally, log, ends, replace(each, partition=home), source)
    return tally, log


def _append(
    tally: Tally,
    log: list[Logged],
    ends: list[int],
    record: Record,
    origin: tuple[int, int] | None = None,
) -> tuple[int, int] | None:
    """Append a record to the log; return its position if it must be forwarded."""
    partition, offset = record.partition, ends[record.partition]
    ends[partition] += 1
    tally.add(partition, offset, record.timestamp, record.value, origin)
    try:
        event = json.loads(record.value or b"")
    except ValueError:
        event = {"bad": True}
    bad = bool(event.get("bad"))
    log.append(Logged(None if bad else event, partition, offset, record.timestamp, origin))
    dead = (partition, offset) in tally.dead
    at_home = dead or home_of(record.key, PARTITIONS) == partition
    return None if at_home else (partition, offset)


def _same(tally: Tally, token_id: str, as_of: int, minutes: int, truth: WindowNumbers) -> None:
    found = window(tally.tokens[token_id], as_of, minutes)
    sums = (found.trades, found.buys, found.volume, found.buy_volume, found.touched)
    assert sums == (
        *(truth.trades, truth.buys, truth.volume_usd, truth.buy_volume_usd),
        truth.retraction_touched,
    )
    assert found.amount == truth.volume_token * 10**18
    if found.touched:
        return
    assert found.largest == truth.largest_trade_usd
    assert len(found.buyers | found.sellers) == truth.traders
    pairs = [(found.first, truth.open_usd), (found.last, truth.close_usd)]
    for price, right in [(e and e[1], r) for e, r in pairs] + [
        (found.high or None, truth.high_usd)
    ]:
        assert (price is None) == (right is None)
        assert price is None or abs(price - float(right or 0)) <= price * 1e-12


def test_the_tally_is_the_oracle() -> None:
    for seed in range(3):
        tally, log = _log(seed)
        assert tally.dead
        assert min(tally.counts.values()) > 0, "every fate is met"
        as_of = NOW + 11 * MINUTE
        rules = Rules(homes=PARTITIONS, grace_ms=GRACE, max_future_ms=MAX_FUTURE)
        truth = recompute(
            decide(log, rules), now=as_of, windows=list(WINDOWS.items()), history_from=None
        )
        assert set(tally.tokens) == set(truth) <= set(token_ids(6))
        for token_id, numbers in truth.items():
            token = tally.tokens[token_id]
            assert (token.duplicates, token.late) == (numbers.duplicates, numbers.late)
            everything = window(token, as_of, 10**7)
            assert everything.unpriced == numbers.unpriced
            assert everything.retracted + token.retracted == numbers.retracted
            assert everything.last_at == numbers.last_trade_at
            for name, minutes in WINDOWS.items():
                _same(tally, token_id, as_of, minutes, numbers.windows[name])


def test_three_seeds_meet_every_kind() -> None:
    drawn = set(KINDS) - NOT_DRAWN
    for family in range(0, 30, 3):
        assert {k for seed in range(family, family + 3) for k in plan(seed, 8)} == drawn
        assert set(plan(family, len(drawn) + 2)) == drawn
        assert len(set(plan(family, 8))) == 8
