"""The ports of a source in memory: they pass the contract suite that Kafka passes.

A `MemoryBroker` outlives the journals and sinks on it, as Kafka outlives a killed process.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

from aggregator.runtime.errors import Fenced
from sources.events import Outgoing


class MemoryBroker:
    """Acknowledged records, and a journal a source with its owner.

    While `up` is cleared, calls wait. `history` has every journal write in order.
    """

    def __init__(self) -> None:
        self.records: list[Outgoing] = []
        self.journals: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        self.history: list[tuple[str, str, bytes | None]] = []
        self.up = asyncio.Event()
        self.up.set()
        self.owners: dict[str, MemoryJournal] = {}
        self.freed = asyncio.Condition()


class MemorySink:
    """See `Sink`."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.broker = broker or MemoryBroker()

    @property
    def records(self) -> list[Outgoing]:
        """What was sent, in order."""
        return self.broker.records

    async def send(self, records: Sequence[Outgoing]) -> None:
        """See `Sink`."""
        await self.broker.up.wait()
        self.broker.records.extend(records)


class MemoryJournal:
    """See `Journal`."""

    def __init__(self, source: str = "test", broker: MemoryBroker | None = None) -> None:
        self.source = source
        self.broker = broker or MemoryBroker()

    @property
    def entries(self) -> Mapping[str, bytes]:
        """What the journal holds."""
        return self.broker.journals[self.source]

    async def own(self) -> Mapping[str, bytes]:
        """See `Journal`."""
        owners = self.broker.owners
        async with self.broker.freed:
            await self.broker.freed.wait_for(lambda: owners.get(self.source) in (None, self))
            owners[self.source] = self
        return dict(self.entries)

    async def write(self, entries: Mapping[str, bytes | None]) -> None:
        """See `Journal`."""
        await self.broker.up.wait()
        if self.broker.owners.get(self.source) is not self:
            raise Fenced(f"source {self.source} has another owner")
        held = self.broker.journals[self.source]
        for key, value in entries.items():
            self.broker.history.append((self.source, key, value))
            if value is None:
                held.pop(key, None)
            else:
                held[key] = value

    async def lose(self) -> None:
        """Take the ownership away, as from a process that is killed or stopped for too long."""
        async with self.broker.freed:
            if self.broker.owners.get(self.source) is self:
                del self.broker.owners[self.source]
            self.broker.freed.notify_all()

    async def close(self) -> None:
        """See `Journal`."""
        await self.lose()
