"""The rows that an archiver writes equal its records one by one, however they are batched."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.archiving.batches import DecidedQueue, Rebuilding, cut, span_of
from aggregator.archiving.decisions import Decided
from aggregator.archiving.intents import LogPosition
from aggregator.clickhouse.native import encoder_of
from aggregator.clickhouse.writer import _COLUMNS, ArchiveBlock, _columns
from aggregator.contracts.event import Swap
from aggregator.contracts.units import DAY_MS
from aggregator.decoding.decoder import BatchDecoder, ReadRecords
from aggregator.decoding.rules import decode_swap
from aggregator.runtime.errors import BadMessage
from tests.unit.archiving.test_archive_native import read_back

RECORD_AT = 1_700_000_000_000
MAX_FUTURE = 2 * DAY_MS
INGESTED_AT = RECORD_AT + 5
PARTITION = 3

# Columns that a reader of the driver returns as they are; the others are read as integers.
KINDS = {
    "chain": "LowCardinality(String)",
    "token": "String",
    "timestamp": "Int64",
    "sign": "Int8",
    "removed": "Bool",
    "tx_hash": "String",
    "log_index": "UInt64",
    "block_number": "Nullable(UInt64)",
    "block_hash": "Nullable(String)",
    "symbol": "LowCardinality(Nullable(String))",
    "quote": "LowCardinality(Nullable(String))",
    "venue": "LowCardinality(Nullable(String))",
    "pool": "Nullable(String)",
    "trader": "Nullable(String)",
    "side": "Enum8('buy' = 1, 'sell' = 2)",
    "amount_usd": "Nullable(Int64)",
    "price_usd": "Nullable(Float64)",
    "verdict": "Enum8('C' = 1, 'L' = 2, 'V' = 4, 'T' = 5, 'N' = 6, 'n' = 7, 'P' = 8, 'G' = 10, "
    "'U' = 3, 'u' = 9)",
    "topic_id": "LowCardinality(String)",
    "leg": "UInt8",
    "quote_token": "Nullable(String)",
    "reserve_token": "Nullable(Float64)",
    "reserve_quote": "Nullable(Float64)",
    "block_check": "UInt16",
    "partition": "UInt32",
    "offset": "UInt64",
    "ingested_at": "Int64",
}

NAMES = st.sampled_from(
    [None, "APE", "\N{GREEK SMALL LETTER ALPHA}", "q\\u0041", "0xAB", "0x" + "aB" * 20]
)
EVENTS = st.fixed_dictionaries(
    {
        "chain": st.sampled_from(["ethereum", "base", "Base"]),
        "tx_hash": st.sampled_from(["0xABcd", "5VERY", "h" * 128]),
        "log_index": st.integers(0, 2**63 - 1),
        "timestamp": st.sampled_from(
            [RECORD_AT - DAY_MS, RECORD_AT, RECORD_AT + DAY_MS, "2023-11-14T22:13:20.123+00:00"]
        ),
        "token": st.sampled_from(["APE", "0x" + "Fe" * 20, "a b"]),
        "side": st.sampled_from(["buy", "sell"]),
        "amount": st.sampled_from(["1.5", "0.000000000000000001", "9" * 30, "1e3", "0"]),
    },
    optional={
        "amount_usd": st.sampled_from([None, "0", "26.8", "9223372036854.775806"]),
        "removed": st.booleans(),
        "block_number": st.one_of(st.none(), st.integers(0, 2**63 - 1)),
        "block_hash": st.sampled_from([None, "0xFF"]),
        "leg": st.sampled_from([0, 1]),
        "quote_token": st.sampled_from([None, "0xAB" + "c" * 38, "USDC"]),
        "reserve_token": st.sampled_from([None, "1.5", "1e30"]),
        "reserve_quote": st.sampled_from([None, "0.25"]),
        **dict.fromkeys(("symbol", "quote", "venue", "pool", "trader"), NAMES),
    },
)
RECORDS = st.lists(
    st.tuples(EVENTS, st.sampled_from("CCCCLVTNnPGD"), st.integers(1, 3)), min_size=1, max_size=40
)


def plainly(offset: int, swap: Swap, verdict: str) -> tuple[Any, ...]:
    """Return the row of one swap."""
    return (
        swap.chain, swap.token, swap.timestamp, int(verdict in "CL"), swap.removed,
        swap.tx_hash, swap.log_index, swap.block_number, swap.block_hash, swap.symbol, swap.quote,
        swap.venue, swap.pool, swap.trader, "buy" if swap.is_buy else "sell", swap.usd_micros,
        swap.price_usd, verdict, "topic-id", swap.leg, swap.quote_token, swap.reserve_token,
        swap.reserve_quote, swap.block_check, PARTITION, offset, INGESTED_AT, swap.amount_attos,
        swap.marker,
    )  # fmt: skip


def written(block: ArchiveBlock) -> list[tuple[Any, ...]]:
    """Return the rows of a block as they are sent to the server."""
    columns, count = _columns(block, "topic-id"), len(block.swaps)
    assert tuple(columns) == _COLUMNS
    found = [
        read_back(kind, encoder_of(kind)(columns[name]), count) for name, kind in KINDS.items()
    ]
    raw = encoder_of("Decimal(76, 18)")(columns["amount"])
    amounts = [int.from_bytes(raw[n : n + 32], "little") for n in range(0, 32 * count, 32)]
    markers = encoder_of("FixedString(16)")(columns["marker"])
    return list(
        zip(*found, amounts, [markers[n : n + 16] for n in range(0, 16 * count, 16)], strict=True)
    )


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.integers(1, 40), st.integers(1, 40))
def test_each_row_equals_its_record(
    records: list[tuple[dict[str, Any], str, int]], poll: int, batch_rows: int
) -> None:
    decoder, held, offset = BatchDecoder(MAX_FUTURE), DecidedQueue(), 100
    values, letters, offsets = [], {}, []
    expected: dict[int, dict[int, tuple[Any, ...]]] = {}
    for event, letter, step in records:
        offset += step
        values.append(json.dumps(event).encode())
        offsets.append(offset)
        letters[offset] = letter
        try:
            swap = decode_swap(values[-1], RECORD_AT, MAX_FUTURE)
        except BadMessage:
            continue
        if letter != "D":
            rows = expected.setdefault(swap.timestamp // DAY_MS, {})
            rows[offset] = plainly(offset, swap, letter)
    for begin in range(0, len(values), poll):
        some = slice(begin, begin + poll)
        times = [RECORD_AT] * len(values[some])
        swaps = decoder.decode(ReadRecords(values[some], times, offsets[some])).swaps
        swaps.swaps["verdict"] = [ord(letters[each]) for each in swaps.offsets.tolist()]
        swaps.swaps["verdict"][swaps.records["bad"]] = ord("B")
        held.add(Decided(swaps, np.zeros(len(swaps), np.int64), {}))

    while held:
        batch = cut(held, PARTITION, LogPosition(), max_rows=batch_rows, now_ms=INGESTED_AT)
        for block in batch.blocks:
            span = span_of(block)
            rows = [
                expected[block.day].pop(each)
                for each in range(span.first, span.last + 1)
                if each in expected[block.day]
            ]
            assert written(block) == rows
        # A successor reads the log again, in one piece.
        first, last = batch.intent.first, batch.intent.last
        read = [n for n, each in enumerate(offsets) if first <= each <= last]
        some = slice(read[0], read[-1] + 1)
        times = [RECORD_AT] * len(read)
        swaps = (
            BatchDecoder(MAX_FUTURE).decode(ReadRecords(values[some], times, offsets[some])).swaps
        )
        rebuilding = Rebuilding(batch.intent, batch.promised, PARTITION, [swaps])
        blocks = rebuilding.batch({}, MAX_FUTURE).blocks
        assert [written(block) for block in blocks] == [written(block) for block in batch.blocks]
    assert not any(expected.values())
