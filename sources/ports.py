"""What a source needs of Kafka: a sink for events, and a journal that one process owns.

Both are asynchronous: a call returns once the broker has acknowledged what it was given. While the
broker is away a call waits, retrying with backoff, and the metrics say so. Both are implemented on
Kafka (`kafka.py`) and in memory (tests/fakes), and pass one contract suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from sources.events import Outgoing


class SourceSink(Protocol):
    """Where events go."""

    async def send(self, records: Sequence[Outgoing]) -> None:
        """Send records in order; return once the broker has acknowledged all of them.

        A crash meanwhile may leave any part of them sent. Raises Fatal where the broker refuses a
        record for a reason that waiting does not change, and Fenced where another process has
        become the owner of the source.
        """
        ...


class SourceJournal(Protocol):
    """What a source must remember across kill -9: texts under keys, the newest of a key wins.

    Keys are chosen by the source, without its name: the journal adds that. Values are JSON.
    """

    async def own(self) -> Mapping[str, bytes]:
        """Wait until this process owns the source's journal; return what it holds.

        Another process with the same source stands by here until the owner ends or is lost.
        """
        ...

    async def write(self, entries: Mapping[str, bytes | None]) -> None:
        """Write entries (None deletes); return once the broker has acknowledged them.

        All entries of a call are written or none is. Raises Fenced where another process has become
        the owner: nothing more may be sent before `own` has returned again.
        """
        ...

    async def close(self) -> None:
        """Give the ownership up immediately."""
        ...
