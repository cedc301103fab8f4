"""What the archive makes of a run of records: the letter of each, and the values of its row.

The letters come from `aggregator.seen`, as for the windows. A retraction is more: its row is the
negative of a row that stands, so the rows of its id decide which one, and whether there is one
(docs/archive.md). No input or output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
import structlog

from aggregator.archiving.intents import Place
from aggregator.clickhouse.questions import ArchivedRow, Entries, Id, join
from aggregator.clickhouse.writer import HAS_ROW, SIGNS
from aggregator.contracts.arrays import Array
from aggregator.contracts.event import ATTOS_PER_TOKEN, Swap
from aggregator.contracts.swaps import ABSENT, RECORD, SWAP, TEXTS, UNPRICED, Swaps, swaps_of
from aggregator.contracts.units import HOUR_MS
from aggregator.contracts.verdict import ARCHIVE_GONE, ARCHIVE_REPLACED, Verdict
from aggregator.decoding.rows import picked
from aggregator.runtime import metrics
from aggregator.seen.known import Known
from aggregator.seen.seen import Seen

log = structlog.get_logger(__name__)

_RETRACTIONS: Final = frozenset(
    (Verdict.UNDONE, Verdict.IGNORED, Verdict.DUPLICATE, Verdict.RETRACTED_FIRST)
)
_ADDED: Final = frozenset((Verdict.COUNTED, Verdict.LATE))
_NO_ROW: Final = ord("X")
_IDENTITY: Final = ("chain", "token", "tx_hash")
# These do not reach the home's rules, so their origin is not noted (`aggregator.seen`).
_NOT_AT_HOME: Final = np.zeros(256, np.bool_)
_NOT_AT_HOME[list(b"BMF")] = True
# What a row of sign -1 takes from the row that it negates; the rest is of its own record.
_TAKEN: Final = {
    SWAP: [name for name in SWAP.names or () if name not in {"offset", "verdict"}],
    RECORD: ["block_check", "leg", "reserve_token", "reserve_quote"],
}


class ArchiveLimits(NamedTuple):
    """The settings by which records are late, future, or too old to be archived (ms)."""

    grace_ms: int
    max_future_ms: int
    keep_ms: int

    def oldest(self, now_ms: int) -> int:
        """Return the least timestamp that is archived.

        ClickHouse drops older rows (ARCHIVE_KEEP), some as they arrive, while their day's totals
        stay: a repeat could not be recognised. The margin lets a row stay until it was looked for.
        """
        return now_ms - self.keep_ms + min(HOUR_MS, self.keep_ms // 24)


class Decided(NamedTuple):
    """Consecutive records with the letter of each in `swaps.swaps["verdict"]`.

    `clocks` (int64, ms) is the log clock after each record. A row of sign -1 has the values of the
    row that it negates; `negated` maps its offset to that row's place.
    """

    swaps: Swaps
    clocks: Array
    negated: dict[int, Place]

    def part(self, begin: int, end: int) -> Decided:
        """Return the records [begin, end)."""
        return Decided(self.swaps.part(begin, end), self.clocks[begin:end], self.negated)


class LogSource(NamedTuple):
    """The topic and the partition that records are of."""

    topic_id: str
    partition: int


class UndecidedRun(msgspec.Struct):
    """Records that wait for a decision; `away` (bool) marks those away from home.

    `asked` is true while the archive is asked for their ids. `pending` are the rows of these ids
    that were decided before the question, and may be missing in the answer.
    """

    swaps: Swaps
    away: Array
    asked: bool = False
    pending: list[ArchivedRow] = []


class WantedIds(NamedTuple):
    """The ids of a run that the archive must be asked for.

    `late` of late swaps, `retracted` of retractions, `forwarded` of other forwarded records, whose
    rows the version before may have written on another partition.
    """

    late: list[Id]
    retracted: list[Id]
    forwarded: list[Id]

    @property
    def all(self) -> list[Id]:
        """All of them."""
        return [*self.late, *self.retracted, *self.forwarded]


class Found(NamedTuple):
    """What the archive has of the ids of a run.

    `entries` are rows of any of them, `rows` those of the retractions', with all values. Rows from
    before the topic had a name are in `unnamed`.
    """

    entries: Entries
    rows: list[ArchivedRow]
    unnamed: list[ArchivedRow]


NOTHING: Final = Found(join(()), [], [])


def wanted(seen: Seen, run: UndecidedRun, limits: ArchiveLimits, *, forwarded: bool) -> WantedIds:
    """Return which ids of a run must be looked up, and of all time.

    A swap that is on time and unknown is new: a repeat of what was forgotten is late
    (MARKER_TTL is long enough for that). `forwarded` asks for those of forwarded records too.
    """
    swaps = run.swaps
    at_home = ~swaps.records["bad"] & ~run.away
    removed = swaps.records["removed"]
    on_time_from = np.maximum(seen.clocks(swaps) - limits.grace_ms, seen.floor)
    asked = swaps.swaps["timestamp"] < on_time_from
    if forwarded:
        asked |= swaps.records["origin_partition"] != ABSENT
    added = np.flatnonzero(at_home & ~removed & asked)
    if len(added):
        added = added[~seen.has(swaps, added)]
    late = swaps.swaps["timestamp"][added] < on_time_from[added]
    return WantedIds(
        ids_at(swaps, added[late]),
        ids_at(swaps, np.flatnonzero(at_home & removed)),
        ids_at(swaps, added[~late]),
    )


def rows_among(
    decided: Iterable[Decided], markers: Iterable[bytes], source: LogSource
) -> list[ArchivedRow]:
    """Return the rows of these ids among decided records, in the order of offsets."""
    wanted_markers = set(markers)
    if not wanted_markers:
        return []
    low = np.frombuffer(b"".join(wanted_markers), np.uint64)[::2]
    found = []
    for part in decided:
        swaps, letters = part.swaps, part.swaps.swaps["verdict"]
        for place in np.flatnonzero(np.isin(swaps.markers[:, 0], low) & HAS_ROW[letters]).tolist():
            if swaps.markers[place].tobytes() in wanted_markers:
                at = (*source, int(swaps.swaps["offset"][place]))
                letter, sign = chr(letters[place]), int(SIGNS[letters[place]])
                found.append(ArchivedRow(swap_at(swaps, place), *at, letter, sign, 0))
    return found


def ids_at(swaps: Swaps, places: Array) -> list[Id]:
    markers = swaps.markers[places].tobytes()
    numbers = swaps.swaps["log_index"][places].tolist()
    found = {}
    for at, (place, number) in enumerate(zip(places.tolist(), numbers, strict=True)):
        marker = markers[16 * at : 16 * at + 16]
        if marker not in found:
            chain, token, tx_hash = (_text(swaps, place, name) for name in _IDENTITY)
            found[marker] = Id(chain, token, tx_hash, number, marker)
    return list(found.values())


def _text(swaps: Swaps, place: int, name: str) -> str:
    begin, end = swaps.spans[place, TEXTS.index(name)].tolist()
    return swaps.text[begin:end].tobytes().decode()


def known_of(rows: Sequence[ArchivedRow], entries: Entries | None = None) -> Known | None:
    """Return what rows of the archive, and rows on their way to it, make of their ids.

    `entries` are older rows, of the same topic, than those of their ids in `rows`.
    """
    unnamed = [row for row in rows if not row.topic_id]
    named = [row for row in rows if row.topic_id]
    parts = [_entries_of(in_order(unnamed)), entries, _entries_of(in_order(named))]
    joined = join([part for part in parts if part is not None])
    # Only the order matters: rows of several partitions and topics have no common offsets.
    ordinal = msgspec.structs.replace(joined, offsets=np.arange(len(joined)))
    return Known.of(ordinal) if len(joined) else None


def _entries_of(rows: Sequence[ArchivedRow]) -> Entries:
    return Entries(
        np.frombuffer(b"".join(row.swap.marker for row in rows), np.uint64).reshape(-1, 2),
        np.array([ord(row.letter) for row in rows], np.uint8),
        np.array([row.offset for row in rows], np.int64),
        np.array([row.swap.block_check for row in rows], np.uint16),
    )


def in_order(rows: Iterable[ArchivedRow]) -> list[ArchivedRow]:
    """Return rows of one id in the order in which they were decided."""
    rows = list(rows)
    unnamed = [row for row in rows if not row.topic_id]
    if len({row.partition for row in unnamed}) > 1:
        # On several partitions only the time of the insert says which came first.
        unnamed.sort(key=lambda row: (row.ingested_at, row.partition, row.offset))
    else:
        unnamed.sort(key=lambda row: row.offset)
    return unnamed + sorted((row for row in rows if row.topic_id), key=lambda row: row.offset)


def standing(rows: Iterable[ArchivedRow]) -> list[ArchivedRow]:
    """Return the rows of sign +1 of an id that no row of sign -1 has taken out, oldest first."""
    ordered = in_order(rows)
    up = [row for row in ordered if row.sign > 0]
    for place, row in enumerate(ordered):
        if row.sign < 0 and up:
            # Of equal rows the newest before it; a backfill may have put a row in before it.
            same = [each for each in up if _values(each.swap) == _values(row.swap)] or up
            before = [each for each in same if each in ordered[:place]]
            up.remove(before[-1] if before else same[-1])
    return up


def _values(swap: Swap) -> tuple[object, ...]:
    """Return what the tables add up, and the block."""
    return swap.timestamp, swap.is_buy, swap.amount_attos, swap.usd_micros, swap.block_check


def decide(
    seen: Seen,
    run: UndecidedRun,
    found: Found,
    limits: ArchiveLimits,
    *,
    source: LogSource,
    now_ms: int,
) -> Decided:
    """Fold a run into `seen`, and decide the row of each record.

    `found` is what the archive has of the ids that `wanted` names. `now_ms` is the machine's time;
    it decides only what is too old to be archived.
    """
    swaps = run.swaps
    archived = [*found.unnamed, *found.rows, *run.pending]
    known = known_of(archived, found.entries)
    clocks = seen.clocks(swaps)
    swaps.swaps["verdict"] = seen.judge(swaps, run.away, known).letters
    negated = _decide_retractions(source, swaps, archived)
    settle_times(swaps, limits.max_future_ms)
    swaps = with_values(swaps, {at: swap for at, (_, swap) in negated.items()})
    _leave_out_old(swaps, negated, limits.oldest(now_ms))
    return Decided(swaps, clocks, {at: place for at, (place, _) in negated.items()})


def _leave_out_old(swaps: Swaps, negated: Negated, oldest: int) -> None:
    """Give no row to what ClickHouse would drop soon."""
    letters = swaps.swaps["verdict"]
    old = HAS_ROW[letters] & (swaps.swaps["timestamp"] < oldest)
    if not old.any():
        return
    letters[old] = _NO_ROW
    for offset in swaps.offsets[old].tolist():
        negated.pop(offset, None)
    log.warning("too_old_for_archive", records=int(old.sum()), oldest_kept=oldest)
    metrics.ARCHIVE_TOO_OLD.inc(int(old.sum()))


Negated = dict[int, tuple[Place, Swap]]
"""The offset of a row of sign -1 to the place and the values of the row that it negates."""


def _decide_retractions(
    source: LogSource, swaps: Swaps, archived: Sequence[ArchivedRow]
) -> Negated:
    """Give each retraction its letter in the archive; return what those of sign -1 negate."""
    letters = swaps.swaps["verdict"]
    removals = swaps.records["removed"] & np.isin(letters, list(map(ord, _RETRACTIONS)))
    if not removals.any():
        return {}
    # By place: a row that is on its way may be in the archive as well.
    rows: dict[bytes, dict[tuple[str, int, int], ArchivedRow]] = {}
    for row in archived:
        rows.setdefault(row.swap.marker, {})[row.topic_id, row.partition, row.offset] = row
    negated: Negated = {}
    same = np.isin(swaps.markers[:, 0], swaps.markers[removals, 0])
    for place in np.flatnonzero(same & (removals | (SIGNS[letters] > 0))).tolist():
        letter, offset = chr(letters[place]), int(swaps.swaps["offset"][place])
        of_id = rows.setdefault(swaps.markers[place].tobytes(), {})
        at = (*source, offset)
        if letter in _ADDED:
            of_id[at] = ArchivedRow(swap_at(swaps, place), *at, letter, 1, 0)
            continue
        up = standing(of_id.values())
        check = int(swaps.records["block_check"][place])
        leaves = 1 if letter == Verdict.IGNORED else 0
        if len(up) > leaves:
            first = [row for row in up if check and row.swap.block_check == check]
            taken = first[0] if first else up[-1]
            if letter != Verdict.UNDONE:
                letter = ARCHIVE_REPLACED
            of_id[at] = ArchivedRow(taken.swap, *at, letter, -1, 0)
            negated[offset] = Place(taken.partition, taken.offset), taken.swap
        elif letter == Verdict.UNDONE:
            letter = ARCHIVE_GONE
        letters[place] = ord(letter)
    return negated


def missing_ids(run: UndecidedRun, missing: Array) -> list[Id]:
    """Return the ids of the records of a run that the archive lacks (`missing`, bool)."""
    return ids_at(run.swaps, np.flatnonzero(missing & ~run.swaps.records["bad"] & ~run.away))


def decide_missing(
    seen: Seen,
    run: UndecidedRun,
    missing: Array,
    archived: Sequence[ArchivedRow],
    limits: ArchiveLimits,
    *,
    source: LogSource,
    begin: int,
    now_ms: int,
) -> Decided:
    """Decide the rows of the records of a run that the archive lacks, beside those that it has.

    `archived` are all rows of `missing_ids`; the others of `run` may be of records in it. All
    records of these ids are folded into `seen`, in the order of the log, from the rows before the
    run on. Returns the missing records.

    A swap is left out if it stands already, and a retraction if nothing is left to be retracted.
    Where a later record of the id has a row, that row was decided with this record or without it:
    this one is left out unless the signs of the rows say that one is missing. A forwarded record is
    left out where the id has a row from before the offset `begin`: it may repeat a forward from
    there.
    """
    markers = run.swaps.markers[:, 0]
    at_home = missing & ~run.swaps.records["bad"] & ~run.away
    asked = missing | np.isin(markers, markers[at_home])
    before = [row for row in archived if not _is_after(row, source, int(run.swaps.offsets[0]) - 1)]
    folded = picked([(run.swaps, np.flatnonzero(asked))])
    folded.swaps["verdict"] = seen.judge(folded, run.away[asked], known_of(before)).letters
    swaps = picked([(folded, np.flatnonzero(missing[asked]))])
    rows: dict[bytes, list[ArchivedRow]] = {}
    for row in archived:
        rows.setdefault(row.swap.marker, []).append(row)
    letters, negated = swaps.swaps["verdict"], Negated()
    forwarded = swaps.records["origin_partition"] != ABSENT
    for place in np.flatnonzero(HAS_ROW[letters]).tolist():
        of_id = rows.setdefault(swaps.markers[place].tobytes(), [])
        at, sign = (*source, int(swaps.swaps["offset"][place])), int(SIGNS[letters[place]])
        later = [row for row in of_id if _is_after(row, source, at[2])]
        if later:
            lacks = sign == _sign_lacking(of_id) != 0
        elif forwarded[place]:
            lacks = all(_is_after(row, source, begin - 1) for row in of_id)
        else:
            lacks = True
        up = standing(row for row in of_id if not _is_after(row, source, at[2]))
        if not lacks or (sign and bool(up) == (sign > 0)):
            letters[place] = _NO_ROW
        elif sign < 0:
            check = int(swaps.records["block_check"][place])
            taken = next((row for row in up if check and row.swap.block_check == check), up[-1])
            of_id.append(ArchivedRow(taken.swap, *at, Verdict.UNDONE, -1, 0))
            negated[at[2]] = Place(taken.partition, taken.offset), taken.swap
        elif sign > 0:
            letters[place] = ord(Verdict.LATE)
            of_id.append(ArchivedRow(swap_at(swaps, place), *at, Verdict.LATE, 1, 0))
    settle_times(swaps, limits.max_future_ms)
    swaps = with_values(swaps, {at: swap for at, (_, swap) in negated.items()})
    _leave_out_old(swaps, negated, limits.oldest(now_ms))
    return Decided(swaps, np.zeros(len(swaps), np.int64), {})


def _is_after(row: ArchivedRow, source: LogSource, offset: int) -> bool:
    return (row.topic_id, row.partition) == source and row.offset > offset


def _sign_lacking(rows: Iterable[ArchivedRow]) -> int:
    """Return the sign without which the rows of an id do not add up to 0 or 1; 0 if none lacks."""
    total = 0
    for row in in_order(rows):
        total += row.sign
        if total < 0:
            return 1
        if total > 1:
            return -1
    return 0


def settle_times(swaps: Swaps, max_future_ms: int) -> None:
    """Give retractions that are stamped in the future the time of their record.

    Nothing of them but their identity is used, so any time is accepted; the table's range is not
    that wide.
    """
    latest = swaps.records["recorded"] + max_future_ms
    wrong = swaps.records["removed"] & (swaps.swaps["timestamp"] > latest)
    swaps.swaps["timestamp"][wrong] = swaps.records["recorded"][wrong]


def with_values(swaps: Swaps, values: dict[int, Swap]) -> Swaps:
    """Return the records with the values of these swaps at these offsets; changes the columns."""
    if not values:
        return swaps
    places = np.searchsorted(swaps.offsets, np.array(sorted(values), np.int64))
    others = swaps_of([values[offset] for offset in sorted(values)])
    for column, other in ((swaps.swaps, others.swaps), (swaps.records, others.records)):
        for field in _TAKEN[column.dtype]:
            column[field][places] = other[field]
    shift = np.where(others.spans == ABSENT, 0, len(swaps.text)).astype(np.int32)
    swaps.spans[places] = others.spans + shift
    return msgspec.structs.replace(swaps, text=np.concatenate((swaps.text, others.text)))


def origins_after(origins: dict[int, int], swaps: Swaps) -> dict[int, int]:
    """Return the highest origin offsets after these records; their letters are filled."""
    came = (swaps.records["origin_partition"] != ABSENT) & ~_NOT_AT_HOME[swaps.swaps["verdict"]]
    if not came.any():
        return origins
    pairs = swaps.records[["origin_partition", "origin_offset"]][came].tolist()
    return origins | dict(pairs)


def swap_at(swaps: Swaps, place: int) -> Swap:
    """Return the swap of one record that is not bad."""
    numbers, record = swaps.swaps[place], swaps.records[place]
    texts = dict(zip(TEXTS, swaps.texts(place), strict=True))
    high, mid, low = (int(numbers[f"amount_{part}"]) for part in ("high", "mid", "low"))
    return Swap(
        token_id=f"{texts['chain']}:{texts['token']}",
        log_index=int(numbers["log_index"]),
        timestamp=int(numbers["timestamp"]),
        is_buy=bool(numbers["buy"]),
        amount_attos=(high * ATTOS_PER_TOKEN + mid) * ATTOS_PER_TOKEN + low,
        usd_micros=None if numbers["usd"] == UNPRICED else int(numbers["usd"]),
        price_usd=None if np.isnan(numbers["price"]) else float(numbers["price"]),
        removed=bool(record["removed"]),
        marker=swaps.markers[place].tobytes(),
        block_number=None if numbers["block_number"] == ABSENT else int(numbers["block_number"]),
        leg=int(record["leg"]),
        reserve_token=None if np.isnan(record["reserve_token"]) else float(record["reserve_token"]),
        reserve_quote=None if np.isnan(record["reserve_quote"]) else float(record["reserve_quote"]),
        **texts,  # type: ignore[arg-type]
    )
