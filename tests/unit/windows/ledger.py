"""Decides about records as docs/exactly-once.md says, one id at a time, to feed the engines."""

from __future__ import annotations

from dataclasses import dataclass, field

from aggregator.contracts.event import Swap


@dataclass
class _Entry:
    """What is known of one id: C counted, L late, X removed, T removed before it came.

    `counted` is the offset of the swap that stands.
    """

    state: str
    block: str | None
    counted: int | None = None


@dataclass
class Ledger:
    """The ids of one partition, none of which is ever forgotten, and the log clock (ms)."""

    grace_ms: int
    clock: int | None = None
    _entries: dict[tuple[object, ...], _Entry] = field(default_factory=dict)

    def decide(self, swap: Swap | None, offset: int, recorded: int) -> tuple[str, int | None]:
        """Return the letter of the next record, and the offset of the swap that it takes out."""
        self.clock = recorded if self.clock is None else max(self.clock, recorded)
        if swap is None:
            return "B", None
        name = (swap.chain, swap.tx_hash, swap.log_index, swap.token)
        entry = self._entries.get(name)
        other = entry is not None and _differ(entry.block, swap.block_hash)
        if swap.removed:
            if entry is None:
                self._entries[name] = _Entry("T", swap.block_hash)
                return "T", None
            return _removal(entry, other)
        letter = _add(entry, other, swap.timestamp >= self.clock - self.grace_ms)
        if letter in "CPLn":
            late = letter in "Ln"
            self._entries[name] = _Entry(
                "L" if late else "C", swap.block_hash, None if late else offset
            )
        elif entry is not None and letter in "VN":
            entry.state, entry.block = "X" if letter == "V" else "C", swap.block_hash
        return letter, None


def _differ(one: str | None, other: str | None) -> bool:
    return None not in (one, other) and one != other


def _removal(entry: _Entry, other: bool) -> tuple[str, int | None]:
    if entry.state in "XT":
        return "D", None
    if other:
        return "I", None
    counted = entry.counted
    entry.state, entry.counted = "X", None
    return "U", counted


def _add(entry: _Entry | None, other: bool, on_time: bool) -> str:
    if entry is None or entry.state == "X" or (entry.state == "T" and other):
        return "C" if on_time else "L"
    if entry.state == "T":
        return "V"
    if not other:
        return "D"
    if entry.state == "C":
        return "N"
    return "P" if on_time else "n"
