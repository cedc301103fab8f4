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
    decide_missing,
    known_of,
    missing_ids,
    rows_among,
    swap_at,
    wanted,
)
from aggregator.clickhouse.questions import ArchivedRow, join
from aggregator.contracts.units import DAY_MS
from aggregator.decoding.decoder import BatchDecoder, ReadRecords
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
        records = ReadRecords(
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


class Backfiller:
    """Decides the records of a log whose rows are missing, in chunks, as a backfill does."""

    def __init__(self, rows: list[ArchivedRow], begin: int = 0) -> None:
        self.rows = list(rows)
        self._begin = begin
        self._decoder = BatchDecoder(MAX_FUTURE_MS)
        self._origins: dict[int, int] = {}

    def fill(self, messages: list[Message]) -> str:
        """Add the rows that lack; return the letter of each record, "." where it has no row."""
        records = ReadRecords(
            [each.value for each in messages],
            [each.timestamp for each in messages],
            [each.place[1] for each in messages],
            [each.origin for each in messages],
        )
        swaps = self._decoder.decode(records).swaps
        run = UndecidedRun(swaps, np.zeros(len(swaps), np.bool_))
        held = {row.offset: row.letter for row in self.rows}
        missing = np.array([offset not in held for offset in records.offsets], np.bool_)
        markers = {each.marker for each in missing_ids(run, missing)}
        seen = Seen(
            ttl_ms=2**60,
            grace_ms=GRACE_MS,
            max_future_ms=MAX_FUTURE_MS,
            next_offset=records.offsets[0],
            floor=2**61,
            origins=self._origins,
        )
        decided = decide_missing(
            seen,
            run,
            missing,
            [row for row in self.rows if row.swap.marker in markers],
            LIMITS,
            source=SOURCE,
            begin=self._begin,
            now_ms=NOW,
        )
        self.rows += _rows_of(decided)
        self._origins |= dict(each.origin for each in messages if each.origin)
        held |= {row.offset: row.letter for row in self.rows}
        return "".join(held.get(offset, ".") for offset in records.offsets)


def log_of(kinds: str, first: int, origins: dict[int, tuple[int, int]]) -> list[Message]:
    """Return records of one id: + and - without a block hash, A and a in one block, B and b."""
    return [
        Message(
            (0, first + at),
            NOW,
            swap(
                1,
                token=token_at(0, homes=1),
                timestamp=NOW,
                removed=kind in "-ab",
                block_hash=None if kind in "+-" else kind.lower(),
            ),
            origins.get(at),
        )
        for at, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("name", "kinds", "held", "filled"),
    [
        ("add, repeat, removal", "++-", "...", "L.U"),
        ("the add is there", "++-", "C..", "C.U"),
        ("add, repeat", "++-", "..U", "L.U"),
        ("included again", "+-+", "...", "LUL"),
        ("the removal first", "-+", "..", "TV"),
        ("another block", "ABa", "...", "Ln."),
        ("an add that was lost", "+-", ".U", "LU"),
        ("a removal that was lost", "+-+", "C.C", "CUC"),
        ("its repeat was archived for it", "++-", ".CU", ".CU"),
        ("its removal was decided without it", "+-", ".G", ".G"),
        ("another block was decided without its removal", "AaB", "C.N", "C.N"),
    ],
)
def test_what_a_backfill_adds(name: str, kinds: str, held: str, filled: str) -> None:
    messages = log_of(kinds, 0, {})
    rows = [
        _a_row(message, letter)
        for message, letter in zip(messages, held, strict=True)
        if letter != "."
    ]
    assert Backfiller(rows).fill(messages) == filled, name


def _a_row(message: Message, letter: str) -> ArchivedRow:
    swaps = BatchDecoder(MAX_FUTURE_MS).decode(ReadRecords([message.value], [NOW], [0])).swaps
    sign = {"C": 1, "L": 1, "U": -1}.get(letter, 0)
    return ArchivedRow(swap_at(swaps, 0), *SOURCE, message.place[1], letter, sign, 0)


def test_a_backfill_leaves_a_forward_alone_that_may_be_a_repeated_one() -> None:
    before = [_a_row(each, letter) for each, letter in zip(log_of("+-", 3, {}), "CU", strict=True)]
    assert Backfiller(before, begin=10).fill(log_of("+", 10, {0: (2, 7)})) == "."
    assert Backfiller(before, begin=10).fill(log_of("+", 10, {})) == "L"
    assert Backfiller([], begin=10).fill(log_of("+", 10, {0: (2, 7)})) == "L"
    # The first of two equal forwards is in the log, in this chunk or in an earlier one.
    again = log_of("+-+", 10, {0: (2, 7), 2: (2, 7)})
    assert Backfiller([], begin=10).fill(again) == "LU."
    chunks = Backfiller([], begin=10)
    assert [chunks.fill(again[:2]), chunks.fill(again[2:])] == ["LU", "."]


def _chunks(draw: random.Random, messages: list[Message]) -> list[list[Message]]:
    cuts = sorted(draw.sample(range(1, len(messages)), 4))
    return [messages[a:b] for a, b in zip([0, *cuts], [*cuts, len(messages)], strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_ids_that_were_deleted_are_archived_as_if_late(seed: int) -> None:
    draw = random.Random(seed)
    messages = stream(draw, 300)
    archive = Archive()
    archive.decide(messages, in_flight=0)
    gone = draw.sample(sorted({row.swap.tx_hash for row in archive.rows}), 5)
    backfiller = Backfiller([row for row in archive.rows if row.swap.tx_hash not in gone])
    for chunk in _chunks(draw, messages):
        backfiller.fill(chunk)
    late = str.maketrans("CNP", "Lnn")

    def rows_in(rows: list[ArchivedRow]) -> list[tuple[object, ...]]:
        return sorted(
            (row.offset, row.letter.translate(late), row.sign, row.swap.usd_micros) for row in rows
        )

    assert rows_in(backfiller.rows) == rows_in(archive.rows)


@pytest.mark.parametrize("seed", range(20))
def test_signs_add_up_whatever_was_skipped_or_lost(seed: int) -> None:
    """The archiver jumped over a part of the log, or a row of each id is gone."""
    draw = random.Random(seed)
    messages = stream(draw, 300)
    archive = Archive()
    if seed % 2:
        begin, end = sorted(draw.sample(range(300), 2))
        archive.decide(messages[:begin], in_flight=0)
        archive.take_over()
        archive.decide(messages[end:], in_flight=0)
        rows = archive.rows
    else:
        archive.decide(messages, in_flight=0)
        lost = {row.swap.tx_hash: row for row in draw.sample(archive.rows, len(archive.rows))}
        rows = [row for row in archive.rows if row is not lost[row.swap.tx_hash]]
    backfiller = Backfiller(rows)
    for chunk in _chunks(draw, messages):
        backfiller.fill(chunk)
    sums: dict[str, list[int]] = {}
    for row in sorted(backfiller.rows, key=lambda row: row.offset):
        total = sums.setdefault(row.swap.tx_hash, [0, 0])
        total[0] += row.sign
        total[1] += row.sign * (row.swap.usd_micros or 0)
        assert total[0] in (0, 1), row
    assert all(usd == 0 for count, usd in sums.values() if not count)
