"""Decides about swaps as `tests.spec.seen` says, to feed the engines."""

from __future__ import annotations

from aggregator.contracts.event import Swap
from tests.spec.seen import LogRecordSpec, SeenSpec

_FOREVER_MS = 2**62


class Ledger:
    """The ids of one partition, none of which is ever forgotten, and the log clock (ms)."""

    def __init__(self, grace_ms: int) -> None:
        self._seen = SeenSpec(ttl=_FOREVER_MS, grace=grace_ms, max_future=0, next_offset=0)

    @property
    def clock(self) -> int | None:
        """The newest record time; None before the first record."""
        return self._seen.clock

    def decide(self, swap: Swap | None, offset: int, recorded: int) -> tuple[str, int | None]:
        """Return the letter of the next record, and the offset of the swap that it takes out."""
        if swap is None:
            return self._seen.judge(LogRecordSpec(offset, b"", 0, recorded, bad=True))
        return self._seen.judge(
            LogRecordSpec(
                offset, swap.marker, swap.timestamp, recorded, swap.removed, swap.block_check
            )
        )
