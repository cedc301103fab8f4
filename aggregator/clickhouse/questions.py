"""What an archiver asks raw_swaps: which ids are archived, in what state, and with what values.

Every question names the topic, because offsets mean nothing without it. Rows from before the column
topic_id ('') have another marker: where they belong to the topic, they are found by what the marker
is made of, and get the present one here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Context, Decimal
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.tables import RAW_SWAPS
from aggregator.contracts.arrays import Array
from aggregator.contracts.event import (
    ATTOS_PER_TOKEN,
    MICROS_PER_USD,
    Swap,
    block_check,
    marker_of,
)
from aggregator.contracts.names import token_id_of

_LONG_S: Final = 600
# Offsets a page: the index by_offset leaves out the granules of other pages, so reading all pages
# costs about as much as reading the rows once.
PAGE: Final = 1_000_000
# Ids a query.
MOST_IDS: Final = 5_000
_LIMITS: Final = {"max_query_size": 16 * 2**20, "max_execution_time": 60}
_UNNAMED: Final = ""
_LETTER_CODES: Final = "_CLUVTNnPuG"
_LETTERS: Final = np.frombuffer(_LETTER_CODES.encode(), np.uint8)
_PACKED: Final = np.dtype(
    [("marker", "<u8", 2), ("offset", "<u8"), ("letter", "u1"), ("check", "<u2")]
)
_PACK: Final = (
    "hex(arrayStringConcat(groupArray(concat(marker, reinterpretAsFixedString(offset), "
    "reinterpretAsFixedString(toUInt8(verdict)), reinterpretAsFixedString(block_check)))))"
)
_EXACT: Final = Context(prec=100)
# The version before wrote V for both sides of a retraction that preceded its swap.
_LETTER: Final = "if(topic_id = '' AND verdict = 'V' AND removed, 'T', toString(verdict))"
_FULL: Final = (
    "chain, token, tx_hash, log_index, toUnixTimestamp64Milli(timestamp), toString(side), "
    "toString(amount), toString(amount_usd), price_usd, symbol, quote, quote_token, venue, pool, "
    "trader, block_number, block_hash, leg, reserve_token, reserve_quote, topic_id, `partition`, "
    f"`offset`, {_LETTER}, toInt8(sign), toUnixTimestamp64Milli(ingested_at)"
)


# One text that the server takes apart: a list of thousands of values would exceed its limits of a
# query's size and parts. The parts are in hexadecimal, so no text can hold a separator.
_NAMED: Final = (
    "(chain, token) IN (SELECT tupleElement(name, 1), tupleElement(name, 2) FROM (SELECT arrayJoin("
    "arrayMap(each -> (unhex(splitByChar(':', each)[1]), unhex(splitByChar(':', each)[2])), "
    "splitByChar(',', %(names)s))) AS name))"
)
_OF_IDS: Final = (
    f"topic_id = %(topic)s AND {_NAMED} AND marker IN "
    "(SELECT toFixedString(unhex(arrayJoin(splitByChar(',', %(ids)s))), 16))"
)
_OF_EVENTS: Final = (
    f"topic_id = '' AND {_NAMED} AND tx_hash IN "
    "(SELECT unhex(arrayJoin(splitByChar(',', %(hashes)s))))"
)


class Id(NamedTuple):
    """What identifies a swap: the fields of its marker, and the marker."""

    chain: str
    token: str
    tx_hash: str
    log_index: int
    marker: bytes


class Entries(msgspec.Struct, frozen=True):
    """Rows as the journal of a partition would know them, one entry per row in each array.

    `markers` (uint64, [row, 2]), `letters` (uint8), `offsets` (int64), `block_checks` (uint16).
    """

    markers: Array
    letters: Array
    offsets: Array
    block_checks: Array

    def __len__(self) -> int:
        return len(self.offsets)


class ArchivedRow(msgspec.Struct, frozen=True, gc=False):
    """A row of raw_swaps. `swap` has its values, with the present marker."""

    swap: Swap
    topic_id: str
    partition: int
    offset: int
    letter: str
    sign: int
    ingested_at: int


def join(parts: Sequence[Entries]) -> Entries:
    """Return the entries of all parts, in this order."""
    if not parts:
        return _entries(np.zeros(0, _PACKED))
    columns = [msgspec.structs.astuple(part) for part in parts]
    return Entries(*(np.concatenate(column) for column in zip(*columns, strict=True)))


class ArchiveQuestions:
    """The archive as one topic's archivers ask it. Every call raises Unavailable or Refused."""

    def __init__(self, clickhouse: ClickHouseClient, topic_id: str) -> None:
        self._clickhouse = clickhouse
        self._topic_id = topic_id

    def next_offset(self, partition: int) -> int:
        """Return the offset after the topic's last row of a partition; 0 where it has no row."""
        found = self._last(partition, self._topic_id)
        return 0 if found is None else found + 1

    def last_unnamed(self, partition: int) -> ArchivedRow | None:
        """Return the last row of a partition that names no topic."""
        found = self._last(partition, _UNNAMED)
        rows = [] if found is None else self.rows_at([(partition, found)], unnamed=True)
        return rows[-1] if rows else None

    def _last(self, partition: int, topic_id: str) -> int | None:
        ((last, count),) = self._clickhouse.execute(
            f"SELECT max(offset), count() FROM {RAW_SWAPS} "  # noqa: S608
            "WHERE topic_id = %(topic)s AND partition = %(partition)s AND chain != ''",
            {"topic": topic_id, "partition": partition},
        )
        return int(last) if count else None

    def offsets_between(self, partition: int, first: int, end: int, *, unnamed: bool) -> set[int]:
        """Return the offsets of [first, end) of a partition that are in the table.

        With `unnamed`, rows that name no topic are the topic's too.
        """
        rows = self._clickhouse.execute(
            f"SELECT DISTINCT offset FROM {RAW_SWAPS} WHERE partition = %(partition)s "  # noqa: S608
            "AND topic_id IN %(topics)s AND offset >= %(first)s AND offset < %(end)s "
            "AND chain != ''",
            {
                "partition": partition,
                "topics": (self._topic_id, *([_UNNAMED] if unnamed else [])),
                "first": first,
                "end": end,
            },
        )
        return {offset for (offset,) in rows}

    def since(self, partition: int, ingested_at: int) -> Iterator[Entries]:
        """Yield the rows of a partition that came in at `ingested_at` (ms) or later.

        They come in the order of offsets, some of PAGE offsets at a time.
        """
        where = (
            "topic_id = %(topic)s AND partition = %(partition)s AND chain != '' "
            "AND ingested_at >= fromUnixTimestamp64Milli(%(since)s, 'UTC')"
        )
        params = {"topic": self._topic_id, "partition": partition, "since": ingested_at}
        ((first, last, count),) = self._clickhouse.execute(
            f"SELECT min(offset), max(offset), count() FROM {RAW_SWAPS} WHERE {where}",  # noqa: S608
            params,
            settings={"max_execution_time": _LONG_S},
        )
        for begin in range(int(first), int(last) + 1, PAGE) if count else ():
            ((packed,),) = self._clickhouse.execute(
                f"SELECT {_PACK} FROM {RAW_SWAPS} WHERE {where} "  # noqa: S608
                "AND offset >= %(begin)s AND offset < %(end)s",
                params | {"begin": begin, "end": begin + PAGE},
                settings={"max_execution_time": _LONG_S},
            )
            rows = np.frombuffer(bytes.fromhex(packed), _PACKED)
            yield _entries(rows[np.argsort(rows["offset"], kind="stable")])

    def unnamed_since(self, ingested_at: int, is_ours: Callable[[str], bool]) -> Entries:
        """Return the same of the rows that name no topic, with the present markers.

        `is_ours` says of a token id whether its rows are wanted: the version before archived a swap
        where its record was, so they are those of any partition. Their offsets say nothing and are
        replaced by numbers below 0, in the order in which the rows of an id came in.
        """
        where = (
            "topic_id = '' AND chain != '' "
            "AND ingested_at >= fromUnixTimestamp64Milli(%(since)s, 'UTC')"
        )
        params = {"since": ingested_at}
        names = self._clickhouse.execute(
            f"SELECT DISTINCT chain, token FROM {RAW_SWAPS} WHERE {where}",  # noqa: S608
            params,
            settings={"max_execution_time": _LONG_S},
        )
        ours = [name for name in names if is_ours(token_id_of(*name))]
        rows: list[tuple[Any, ...]] = []
        for begin in range(0, len(ours), MOST_IDS):
            rows += self._clickhouse.execute(
                f"SELECT chain, token, tx_hash, log_index, block_hash, {_LETTER} "  # noqa: S608
                f"FROM {RAW_SWAPS} WHERE {where} AND {_NAMED} "
                "ORDER BY ingested_at, partition, offset",
                params | _names(ours[begin : begin + MOST_IDS]),
                settings=_LIMITS | {"max_execution_time": _LONG_S},
            )
        packed = np.zeros(len(rows), _PACKED)
        markers = [
            marker_of(chain, tx_hash, log_index, token)
            for chain, token, tx_hash, log_index, *_ in rows
        ]
        packed["marker"] = np.frombuffer(b"".join(markers), np.uint64).reshape(-1, 2)
        packed["letter"] = [_LETTER_CODES.index(row[5]) for row in rows]
        packed["check"] = [0 if row[4] is None else block_check(row[4]) for row in rows]
        ordinals = np.arange(-len(rows), 0)
        return msgspec.structs.replace(_entries(packed), offsets=ordinals)

    def entries_of(self, ids: Sequence[Id]) -> Entries:
        """Return the topic's rows of these ids, of all time, in the order of offsets."""
        found = []
        for page in _pages(ids):
            ((packed,),) = self._clickhouse.execute(
                f"SELECT {_PACK} FROM {RAW_SWAPS} WHERE {_OF_IDS}",  # noqa: S608
                self._of_ids(page),
                settings=_LIMITS,
            )
            found.append(np.frombuffer(bytes.fromhex(packed), _PACKED))
        rows = np.concatenate(found) if found else np.zeros(0, _PACKED)
        return _entries(rows[np.argsort(rows["offset"], kind="stable")])

    def rows_of(self, ids: Sequence[Id]) -> list[ArchivedRow]:
        """Return the same rows with all their values."""
        return [row for page in _pages(ids) for row in self._rows(_OF_IDS, self._of_ids(page))]

    def unnamed_rows_of(self, ids: Sequence[Id]) -> list[ArchivedRow]:
        """Return the rows of these ids that name no topic, of all partitions of the log."""
        wanted = {each.marker for each in ids}
        return [
            row
            for page in _pages(ids)
            for row in self._rows(
                _OF_EVENTS, _names(_names_of(page)) | {"hashes": _hex(page, "tx_hash")}
            )
            if row.swap.marker in wanted
        ]

    def rows_at(
        self, places: Sequence[tuple[int, int]], *, unnamed: bool = False
    ) -> list[ArchivedRow]:
        """Return the rows at these (partition, offset); of rows without a topic if `unnamed`."""
        found = []
        for begin in range(0, len(places), MOST_IDS):
            page = places[begin : begin + MOST_IDS]
            offsets = [offset for _, offset in page]
            found += self._rows(
                "topic_id = %(topic)s AND chain != '' "
                "AND offset BETWEEN %(first)s AND %(last)s AND (toString(partition), "
                "toString(offset)) IN (SELECT splitByChar(':', place)[1], "
                "splitByChar(':', place)[2] FROM (SELECT arrayJoin(splitByChar(',', %(places)s)) "
                "AS place))",
                {
                    "topic": _UNNAMED if unnamed else self._topic_id,
                    "first": min(offsets),
                    "last": max(offsets),
                    "places": ",".join(f"{partition}:{offset}" for partition, offset in page),
                },
            )
        return found

    def _of_ids(self, ids: Sequence[Id]) -> dict[str, str]:
        markers = ",".join(each.marker.hex() for each in ids)
        return _names(_names_of(ids)) | {"topic": self._topic_id, "ids": markers}

    def _rows(self, where: str, params: dict[str, Any]) -> list[ArchivedRow]:
        rows = self._clickhouse.execute(
            # A row that was inserted twice and is not merged yet is one row.
            f"SELECT DISTINCT {_FULL} FROM {RAW_SWAPS} WHERE {where} "  # noqa: S608
            "ORDER BY topic_id != '', partition, offset",
            params,
            settings=_LIMITS,
        )
        return [_row(each) for each in rows]


def _pages(ids: Sequence[Id]) -> Iterator[Sequence[Id]]:
    for begin in range(0, len(ids), MOST_IDS):
        yield ids[begin : begin + MOST_IDS]


def _names(names: Iterable[tuple[str, str]]) -> dict[str, str]:
    pairs = [f"{chain.encode().hex()}:{token.encode().hex()}" for chain, token in names]
    return {"names": ",".join(pairs)}


def _names_of(ids: Iterable[Id]) -> set[tuple[str, str]]:
    return {(each.chain, each.token) for each in ids}


def _hex(ids: Sequence[Id], field: str) -> str:
    return ",".join({getattr(each, field).encode().hex() for each in ids})


def _entries(rows: Array) -> Entries:
    return Entries(
        np.ascontiguousarray(rows["marker"]),
        _LETTERS[rows["letter"]],
        rows["offset"].astype(np.int64),
        rows["check"].astype(np.uint16),
    )


def _row(row: Sequence[Any]) -> ArchivedRow:
    chain, token, tx_hash, log_index, timestamp, side, amount, usd, price, *texts = row[:15]
    block_number, block_hash, leg, reserve_token, reserve_quote, *place = row[15:]
    symbol, quote, quote_token, venue, pool, trader = texts
    return ArchivedRow(
        Swap(
            token_id=token_id_of(chain, token),
            chain=chain,
            token=token,
            tx_hash=tx_hash,
            log_index=log_index,
            timestamp=timestamp,
            is_buy=side == "buy",
            amount_attos=_whole(amount, ATTOS_PER_TOKEN),
            usd_micros=None if usd is None else _whole(usd, MICROS_PER_USD),
            price_usd=price,
            removed=False,
            marker=marker_of(chain, tx_hash, log_index, token),
            symbol=symbol,
            trader=trader,
            quote=quote,
            venue=venue,
            pool=pool,
            block_number=block_number,
            block_hash=block_hash,
            leg=leg,
            quote_token=quote_token,
            reserve_token=reserve_token,
            reserve_quote=reserve_quote,
        ),
        *place,
    )


def _whole(text: str, units: int) -> int:
    return int(_EXACT.multiply(Decimal(text), units))
