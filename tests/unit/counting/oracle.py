"""What the windows must show, from the logs in memory, as `tests.support.oracle` decides it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from aggregator.contracts.records import LogRecord
from tests.support.oracle import DecidedRecord, Logged, origin_of, token_id


class Shown(NamedTuple):
    """The numbers of one token in one window."""

    trades: int
    buys: int
    volume: Decimal


def logged_of(record: LogRecord) -> Logged:
    """Return a record as the oracle reads it; an event that neither buys nor sells is no swap."""
    event = json.loads(record.value or b"{}")
    place = record.partition, record.offset, record.timestamp
    is_swap = event.get("side") in {"buy", "sell"}
    return Logged(event if is_swap else None, *place, origin_of(record.headers))


def windows_of(
    decided: Iterable[DecidedRecord], spans: dict[str, int], now_ms: int
) -> dict[tuple[str, str], Shown]:
    """Return the numbers of each token and window (minutes) that has trades."""
    standing: dict[Logged, None] = {}
    for each in decided:
        if each.letter in "CP":
            standing[each.logged] = None
        elif each.undone is not None:
            del standing[each.undone]
    minute = now_ms // 60_000
    found: dict[tuple[str, str], Shown] = {}
    for swap in (each.swap for each in standing):
        for window, span in spans.items():
            if minute - span < swap["timestamp"] // 60_000 <= minute:
                key = token_id(swap), window
                trades, buys, volume = found.get(key, Shown(0, 0, Decimal(0)))
                buys += swap["side"] == "buy"
                found[key] = Shown(trades + 1, buys, volume + Decimal(swap["amount_usd"]))
    return found


def lost_forwards(decided: Sequence[DecidedRecord]) -> list[str]:
    """Return the misplaced records that never arrived at another partition."""
    arrived = {each.logged.origin for each in decided}
    return [
        f"{each.logged.partition}:{each.logged.offset}"
        for each in decided
        if each.letter == "M" and (each.logged.partition, each.logged.offset) not in arrived
    ]
