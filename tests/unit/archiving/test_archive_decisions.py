"""The rows of random streams, with takeovers, equal those of rules that share no code."""

from __future__ import annotations

import random

import numpy as np
import pytest

from aggregator.archiving.decisions import (
    ArchiveLimits,
    Decided,
    Found,
    LogSource,
    UndecidedRun,
    decide,
    known_of,
    rows_among,
    wanted,
)
from aggregator.clickhouse.questions import ArchivedRow, join
from aggregator.contracts.units import DAY_MS
from aggregator.decoding.decoder import BatchDecoder
from aggregator.seen.seen import Seen
from tests.support.archived import (
    GRACE_MS,
    HOUR_MS,
    MAX_FUTURE_MS,
    TTL_MS,
    Message,
    expected,
    token_at,
)
from tests.support.columns import SomeRecords
from tests.support.service import swap

SOURCE = LogSource("topic", 0)
LIMITS = ArchiveLimits(GRACE_MS, MAX_FUTURE_MS, 3_650 * DAY_MS)
NOW = 1_795_392_000_000


class Archive:
    """Rows as ClickHouse would hold them, and an owner that decides about records."""

    def __init__(self) -> None:
        self.rows: list[ArchivedRow] = []
        self._decoder = BatchDecoder(MAX_FUTURE_MS)
        self._clock: int | None = None
        self._next_offset = 0
        self.take_over()

    def take_over(self) -> None:
        """Forget all that is not archived or in the commit metadata."""
        self._seen = Seen(
            ttl_ms=TTL_MS,
            grace_ms=GRACE_MS,
            max_future_ms=MAX_FUTURE_MS,
            next_offset=self._next_offset,
            clock=self._clock,
        )
        known = known_of(self.rows)
        if known is not None and self._clock is not None:
            self._seen.remember(known, self._clock + TTL_MS)

    def decide(self, messages: list[Message], *, in_flight: int) -> None:
        """Archive these records; the newest `in_flight` rows are not in ClickHouse yet."""
        records = SomeRecords(
            [each.value for each in messages],
            [each.timestamp for each in messages],
            [each.place[1] for each in messages],
        )
        swaps = self._decoder.decode(records).swaps
        run = UndecidedRun(swaps, np.zeros(len(swaps), np.bool_))
        markers = {each.marker for each in wanted(self._seen, run, LIMITS, forwarded=False).all}
        rows = [row for row in self.rows if row.swap.marker in markers]
        split = len(rows) - min(in_flight, len(rows))
        run.pending = rows[split:]
        found = Found(join(()), rows[:split], [])
        decided = decide(self._seen, run, found, LIMITS, source=SOURCE, now_ms=NOW)
        self.rows += _rows_of(decided)
        self._clock, self._next_offset = self._seen.clock, self._seen.next_offset


def _rows_of(decided: Decided) -> list[ArchivedRow]:
    markers = {decided.swaps.markers[n].tobytes() for n in range(len(decided.swaps))}
    return rows_among([decided], markers, SOURCE)


def stream(draw: random.Random, count: int) -> list[Message]:
    """Adds and removals of few ids, on time and late, in several blocks, with other values."""
    clock, found = NOW - 60 * HOUR_MS, []
    for offset in range(count):
        clock += draw.choice([0, 0, 10, 1_000])
        value = swap(
            draw.randrange(12),
            token=token_at(0, homes=1),
            timestamp=clock - draw.choice([0, 0, 1_000, 25 * HOUR_MS]),
            removed=draw.random() < 0.4,
            block_hash=draw.choice([None, "0xa", "0xb"]),
            amount_usd=str(draw.randrange(1, 9)),
        )
        found.append(Message((0, offset), clock + draw.randrange(5), value))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_rows_are_those_of_the_rules(seed: int) -> None:
    draw = random.Random(seed)
    messages = stream(draw, 300)
    archive = Archive()
    rest = messages
    while rest:
        if draw.random() < 0.3:
            archive.take_over()
        count = draw.randint(1, 40)
        archive.decide(rest[:count], in_flight=draw.randint(0, 20))
        rest = rest[count:]
    want = expected(messages, 1)
    found = [
        (row.partition, row.offset, row.swap.tx_hash, row.letter, row.sign) for row in archive.rows
    ]
    assert sorted(found) == want.rows
    sums: dict[tuple[str, int], int] = {}
    for row in archive.rows:
        key = row.swap.token, row.swap.timestamp // 60_000 * 60
        sums[key] = sums.get(key, 0) + row.sign * (row.swap.usd_micros or 0)
    micros = {key: int(usd * 1_000_000) for key, (_, usd) in want.candles.items()}
    assert {key: usd for key, usd in sums.items() if usd} == {
        key: usd for key, usd in micros.items() if usd
    }
    assert {"C", "L", "U", "T", "V", "N"} <= {row.letter for row in archive.rows}
