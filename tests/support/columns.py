"""Records for the decoder, and decoded columns read back into swaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aggregator.contracts.event import Swap
from aggregator.contracts.swaps import ABSENT, TEXTS, UNPRICED, Swaps
from aggregator.decoding.decoder import ReadRecords


def records(
    values: Sequence[bytes | None],
    timestamp: int,
    first: int = 0,
    origins: Sequence[tuple[int, int] | None] | None = None,
) -> ReadRecords:
    """Return records of one time with contiguous offsets."""
    offsets = range(first, first + len(values))
    return ReadRecords(values, [timestamp] * len(values), offsets, origins)


def swap_at(swaps: Swaps, place: int) -> Swap | None:
    """Return the swap that the columns hold at `place`, None for a bad record."""
    number: Any = swaps.swaps[place]
    record: Any = swaps.records[place]
    if record["bad"]:
        return None
    texts = dict(zip(TEXTS, swaps.texts(place), strict=True))
    name = swaps.token_names[record["name"]]
    assert name.symbol == texts["symbol"]
    assert name.token_id == f"{texts['chain']}:{texts['token']}"
    upper = int(number["amount_high"]) * 10**18 + int(number["amount_mid"])
    swap = Swap(
        **texts,  # type: ignore[arg-type]
        token_id=name.token_id,
        log_index=int(number["log_index"]),
        timestamp=int(number["timestamp"]),
        is_buy=bool(number["buy"]),
        amount_attos=upper * 10**18 + int(number["amount_low"]),
        usd_micros=None if number["usd"] == UNPRICED else int(number["usd"]),
        price_usd=_known(number["price"]),
        removed=bool(record["removed"]),
        marker=swaps.markers[place].tobytes(),
        block_number=None if number["block_number"] == ABSENT else int(number["block_number"]),
        leg=int(record["leg"]),
        reserve_token=_known(record["reserve_token"]),
        reserve_quote=_known(record["reserve_quote"]),
    )
    assert record["block_check"] == swap.block_check
    return swap


def _known(number: float) -> float | None:
    return None if np.isnan(number) else float(number)
