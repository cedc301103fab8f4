"""Swaps as columns, made of decoded swaps."""

from __future__ import annotations

from hashlib import blake2b

import msgspec
import numpy as np
import pytest

from aggregator.contracts.event import Swap, marker_of
from aggregator.contracts.swaps import RECORD, SWAP, swaps_of, trader_key
from tests.support.columns import swap_at

PLAIN = Swap(
    token_id="c:t",
    chain="c",
    token="t",
    tx_hash="0xab",
    log_index=3,
    timestamp=1_700_000_000_123,
    is_buy=False,
    amount_attos=1,
    usd_micros=None,
    price_usd=None,
    removed=False,
    marker=marker_of("c", "0xab", 3, "t"),
)
FULL = Swap(
    token_id="sui:0x2::m::T",
    chain="sui",
    token="0x2::m::T",
    tx_hash="h" * 128,
    log_index=2**63 - 1,
    timestamp=2**63 - 1,
    is_buy=True,
    amount_attos=10**48 - 1,
    usd_micros=2**63 - 1,
    price_usd=1e300,
    removed=True,
    marker=bytes(range(240, 256)),
    symbol="\u5e01",
    trader="0xtrader",
    quote="Q",
    venue="v",
    pool="p",
    block_number=2**63 - 1,
    block_hash="0xbeef",
    leg=1,
    quote_token="q",
    reserve_token=0.0,
    reserve_quote=1.5,
)
SOME = [None, PLAIN, FULL, None, msgspec.structs.replace(PLAIN, leg=1), None]


def test_columns_hold_every_field_of_a_swap() -> None:
    made = swaps_of(SOME)
    assert [swap_at(made, place) for place in range(len(made))] == SOME
    assert (made.swaps.dtype, made.records.dtype) == (SWAP, RECORD)
    assert made.swaps["trader"].tolist() == [0, 0, trader_key("0xtrader"), 0, 0, 0]
    assert made.records["name"].tolist() == [-1, 0, 1, -1, 2, -1]
    assert set(made.records["origin_partition"]) == set(made.records["origin_offset"]) == {-1}
    assert made.texts(0) == (None,) * 10


def test_offsets_and_times_of_records_are_given_or_made() -> None:
    made = swaps_of(SOME)
    assert made.offsets.tolist() == [0, 1, 2, 3, 4, 5]
    assert made.records["recorded"].tolist() == [
        swap.timestamp if swap is not None else 0 for swap in SOME
    ]
    made = swaps_of(SOME, np.arange(7, 13), recorded=range(70, 76))
    assert made.offsets.tolist() == [7, 8, 9, 10, 11, 12]
    assert made.records["recorded"].tolist() == [70, 71, 72, 73, 74, 75]


@pytest.mark.parametrize("swaps", [[], [None]])
def test_no_swap_at_all(swaps: list[Swap | None]) -> None:
    made = swaps_of(swaps)
    assert [swap_at(made, place) for place in range(len(made))] == swaps
    assert len(made.text) == 0


def test_a_part_has_the_records_between() -> None:
    part = swaps_of(SOME, range(10, 16)).part(1, 4)
    assert [swap_at(part, place) for place in range(len(part))] == SOME[1:4]
    assert part.offsets.tolist() == [11, 12, 13]


def test_a_trader_has_a_key_and_nobody_has_none() -> None:
    assert trader_key(None) == 0
    digest = blake2b(b"0xtrader", digest_size=8).digest()
    assert trader_key("0xtrader") == int.from_bytes(digest, "little")
