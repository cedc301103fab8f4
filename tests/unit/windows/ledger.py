"""Decides about records as docs/exactly-once.md says, one id at a time: the input of the engines."""

from __future__ import annotations

from dataclasses import dataclass, field

from aggregator.contracts.event import Swap


@dataclass
class _Entry:
    """What is known of one id: C counted, L late, X removed, T removed before it came."""

    state: str
    block: str | None
    counted: Swap | None = None


@dataclass
class Ledger:
    """The ids of one partition, none of which is ever forgotten, and the log clock (ms)."""

    grace_ms: int
    clock: int | None = None
    _entries: dict[bytes, _Entry] = field(default_factory=dict)

    def decide(self, swap: Swap | None, recorded: int) -> tuple[str, Swap | None]:
        """Return the letter of the next record, and the swap that it takes out of the windows."""
        self.clock = recorded if self.clock is None else max(self.clock, recorded)
        if swap is None:
            return "B", None
        entry = self._entries.get(swap.marker)
        known = entry is not None and None not in (entry.block, swap.block_hash)
        other = entry is not None and known and entry.block != swap.block_hash
        if swap.removed:
            return self._removal(swap, entry, other)
        return self._add(swap, entry, other, swap.timestamp >= self.clock - self.grace_ms)

    def _removal(self, swap: Swap, entry: _Entry | None, other: bool) -> tuple[str, Swap | None]:
        if entry is None:
            self._entries[swap.marker] = _Entry("T", swap.block_hash)
            return "T", None
        if entry.state in "XT":
            return "D", None
        if other:
            return "I", None
        entry.state, counted, entry.counted = "X", entry.counted, None
        return "U", counted

    def _add(
        self, swap: Swap, entry: _Entry | None, other: bool, on_time: bool
    ) -> tuple[str, Swap | None]:
        if entry is None or entry.state == "X" or (entry.state == "T" and other):
            letter = "C" if on_time else "L"
        elif entry.state == "T":
            entry.state = "X"
            return "V", None
        elif not other:
            return "D", None
        elif entry.state == "C":
            entry.block = swap.block_hash
            return "N", None
        else:
            letter = "P" if on_time else "n"
        counted = swap if letter in "CP" else None
        self._entries[swap.marker] = _Entry("C" if counted else "L", swap.block_hash, counted)
        return letter, None
