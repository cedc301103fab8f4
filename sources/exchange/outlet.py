"""The way from a session to Kafka: a bounded queue, and progress noted after what it covers.

Whatever was put in is sent and acknowledged before the progress that counts it is written to the
journal. So a restart may send trades again, which is harmless, and misses none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from aggregator.runtime.errors import SwapsError
from sources.events import Outgoing
from sources.ports import SourceJournal, SourceSink

CAPACITY: Final = 50_000
"""Records that wait while the broker is away, some 25 MB. A session stops to read above it."""
_BATCH: Final = 5_000
_LAST_S: Final = 2.0
"""How long a cancelled outlet may take to send what waits and to note its progress."""


class SymbolProgress(NamedTuple):
    """What all records that were put so far cover.

    `entries` are the journal's entries that have changed since the last call. Nothing is missing up
    to `until_ms`, ms since the epoch; None where that is not known.
    """

    entries: Mapping[str, bytes | None]
    until_ms: int | None


class Ledger(Protocol):
    """Who keeps account of what was put in."""

    def progress(self) -> SymbolProgress:
        """Return the progress as of now."""
        ...

    def sent(self, count: int) -> None:
        """Note that the broker has acknowledged so many more records."""
        ...

    def covered(self, until_ms: int) -> None:
        """Note that the broker has all up to a time."""
        ...


class TradeOutlet:
    """Sends records in the order in which they were put.

    The ledger's progress is noted every `journal_s`. `clock` returns seconds of a clock that never
    jumps.
    """

    def __init__(
        self,
        sink: SourceSink,
        journal: SourceJournal,
        ledger: Ledger,
        *,
        journal_s: float,
        clock: Callable[[], float],
        capacity: int = CAPACITY,
    ) -> None:
        self._sink = sink
        self._journal = journal
        self._ledger = ledger
        self._journal_s = journal_s
        self._clock = clock
        self._capacity = capacity
        self._waiting: list[Outgoing] = []
        self._unsent = 0
        self._due_s = clock()
        self._noted = False
        # What the ledger has reported and the journal has not got yet.
        self._entries: dict[str, bytes | None] = {}
        self._something = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def full(self) -> bool:
        """Whether nothing more should be put in: reading stops, and what is missed is filled."""
        return self._unsent >= self._capacity

    def put(self, record: Outgoing) -> None:
        """Queue a record. A caller asks `full` before it reads more from a venue."""
        self._waiting.append(record)
        self._unsent += 1
        self._something.set()

    async def room(self) -> None:
        """Wait until the queue is at most half full, if it is full."""
        if self.full:
            self._room.clear()
        await self._room.wait()

    async def run(self) -> None:
        """Send until cancelled, then for 2 s more; what waits then is filled at the next start."""
        try:
            while True:
                await self._woken(self._due_s - self._clock())
                # The first trades immediately: without an entry, a restart does not know of a gap.
                first = bool(self._waiting) and not self._noted
                await self._pass(note=first or self._clock() >= self._due_s)
        finally:
            with suppress(SwapsError, TimeoutError):
                async with asyncio.timeout(_LAST_S):
                    await self._pass(note=True)

    async def _pass(self, *, note: bool) -> None:
        """Send what waits, then note the progress that covers it."""
        # Taken together, so the progress covers exactly what is sent before it is written.
        batch, self._waiting = self._waiting, []
        progress = self._ledger.progress() if note else None
        if progress is not None:
            self._entries |= progress.entries
        await self._send(batch)
        if progress is None:
            return
        if self._entries:
            await self._journal.write(self._entries)
            self._entries = {}
        self._noted = self._noted or bool(batch)
        if progress.until_ms is not None:
            self._ledger.covered(progress.until_ms)
        self._due_s = self._clock() + self._journal_s

    async def _woken(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._something.wait()
        except TimeoutError:
            pass
        self._something.clear()

    async def _send(self, batch: list[Outgoing]) -> None:
        for begin in range(0, len(batch), _BATCH):
            part = batch[begin : begin + _BATCH]
            try:
                await self._sink.send(part)
            except BaseException:
                # No later progress may cover what is not acknowledged.
                self._waiting[:0] = batch[begin:]
                raise
            self._unsent -= len(part)
            self._ledger.sent(len(part))
            if self._unsent <= self._capacity // 2:
                self._room.set()
