"""A source without Kafka: its events are printed, and it remembers nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO

from sources.events import Outgoing


class PrintingSink:
    """Writes each event as a line of JSON (see `Sink`)."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    async def send(self, records: Sequence[Outgoing]) -> None:
        """Write the records and flush. Raises BrokenPipeError where the reader has gone."""
        self._out.writelines(record.value + b"\n" for record in records)
        self._out.flush()

    async def close(self) -> None:
        """Nothing is left to write."""


class ForgetfulJournal:
    """A journal that is always owned and always empty (see `Journal`)."""

    async def own(self) -> Mapping[str, bytes]:
        """Return no entries."""
        return {}

    async def write(self, entries: Mapping[str, bytes | None]) -> None:
        """Forget the entries."""

    async def close(self) -> None:
        """There is nothing to give up."""
