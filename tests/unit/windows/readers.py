"""Drives engines through a schedule, and keeps what a reader and a store of theirs have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aggregator.contracts.event import Swap
from aggregator.contracts.stats import TokenStats
from aggregator.contracts.verdict import Verdict
from aggregator.windows.engine import ColumnarWindows
from aggregator.windows.snapshot import EngineSnapshot
from tests.spec.windows import ReferenceWindows
from tests.unit.windows.ledger import Ledger
from tests.unit.windows.schedules import Shape, Step, schedule
from tests.unit.windows.service import T0, Engine, apply


@dataclass(frozen=True)
class DecidedStep:
    """A step of a schedule, and what was decided of its records; `clock` is the log clock."""

    step: Step
    offsets: list[int]
    letters: str
    undone: dict[int, Swap]
    clock: int | None


def decided(seed: int, steps: int, shape: Shape) -> Iterator[DecidedStep]:
    """Yield the steps of a schedule with the decision about each record."""
    ledger, swaps = Ledger(shape.grace_ms), list[Swap | None]()
    for step in schedule(seed, steps, shape):
        letters, undone, offsets = "", {}, []
        for place, swap in enumerate(step.swaps):
            offsets.append(len(swaps))
            swaps.append(swap)
            letter, counted_at = ledger.decide(swap, offsets[-1], step.now)
            letters += letter
            counted = None if counted_at is None else swaps[counted_at]
            if counted is not None:
                undone[place] = counted
        yield DecidedStep(step, offsets, letters, undone, ledger.clock)


class Reader:
    """An engine, and what a reader of its patches knows.

    `by_event`: the windows end at the log clock, as in a replay of old data.
    """

    def __init__(
        self, kind: Engine, shape: Shape, history_from: int | None, by_event: bool = False
    ) -> None:
        self.engine = kind(
            partition=3,
            windows=shape.windows,
            now_ms=0 if by_event else T0,
            history_from=history_from,
        )
        self.board: dict[str, TokenStats] = {}
        self.dirty: list[str] = []
        self._by_event = by_event
        self._clock: int | None = None
        self._next_offset = 0

    def play(self, each: DecidedStep) -> None:
        """Apply the records, move the clock, publish what changed and forget what is idle."""
        self._clock = each.clock
        self._next_offset += len(each.offsets)
        apply(self.engine, each.step.swaps, each.offsets, each.letters, each.undone)
        self.engine.advance((each.clock or 0) if self._by_event else each.step.clock)
        self.dirty = self.engine.take_dirty()
        for token in self.dirty:
            self.board[token] = self.stats(token)
        for token in self.engine.forget_idle() if each.step.forget else ():
            del self.board[token]

    def stats(self, token: str) -> TokenStats:
        """Return the numbers of one token as they are now."""
        return self.engine.stats(
            token, epoch=2, seq=7, next_offset=self._next_offset, watermark=self._clock
        )

    def fresh(self) -> dict[str, TokenStats]:
        """Return every token as it is now."""
        return {token: self.stats(token) for token in sorted(self.engine.token_ids())}

    def held(self) -> dict[str, object]:
        """Return what the engine reports of itself."""
        engine = self.engine
        return {
            "counts": {verdict: engine.counts[verdict] for verdict in Verdict},
            "now_ms": engine.now_ms,
            "token_count": engine.token_count,
            "bucket_count": engine.bucket_count,
            "token_ids": sorted(engine.token_ids()),
        }


class Store:
    """The sections as Redis stores them."""

    def __init__(self) -> None:
        self.sections: dict[bytes, bytes] = {}

    def save(self, snapshot: EngineSnapshot) -> None:
        """Apply a snapshot; what it drops must be there."""
        assert not set(snapshot.dropped) & set(snapshot.changed)
        for name in snapshot.dropped:
            del self.sections[name]
        self.sections.update(snapshot.changed)

    def replace(self, snapshot: EngineSnapshot) -> None:
        """Begin again with a snapshot of everything."""
        assert not snapshot.dropped
        self.sections = dict(snapshot.changed)

    def restored(self, live: ColumnarWindows, shape: Shape, now_ms: int) -> ColumnarWindows:
        """Return an engine made from the sections."""
        again = ColumnarWindows(
            partition=live.partition,
            windows=shape.windows,
            now_ms=now_ms,
            history_from=live.history_from,
        )
        assert again.restore(dict(self.sections))
        return again


def reference(shape: Shape, history_from: int | None) -> Reader:
    """Return a reader of the specification."""
    return Reader(ReferenceWindows, shape, history_from)
