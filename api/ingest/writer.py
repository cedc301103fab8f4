"""The loaded part of ingest: the check of events and the producer that writes them to Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from aggregator.contracts.records import Header
from aggregator.producing.publisher import Publication, SwapPublisher
from aggregator.runtime.config import Config
from api.ingest.check import EventCheck
from api.ingest.verdicts import LineVerdicts

SUBJECT_HEADER: Final = "subject"
ANSWER_WITHIN_S: Final = 5.0
# The client gives up a record soon after its request was answered with a 503: the caller sends it
# again, so that keeping it would fill the queue with repeats.
_GIVE_UP_MS: Final = 10_000


class PublisherPort(Protocol):
    """As much of `SwapPublisher` as ingest uses."""

    @property
    def fault(self) -> str: ...
    @property
    def queued(self) -> int: ...
    async def start(self) -> None: ...
    async def publish(
        self,
        records: Sequence[tuple[bytes, bytes]],
        *,
        headers: Sequence[Header] = (),
        within_s: float | None = None,
    ) -> Publication: ...
    async def close(self) -> None: ...


class SwapWriter:
    """Checks events and writes the good ones. `publisher` serves one event loop."""

    def __init__(self, check: EventCheck, publisher: PublisherPort) -> None:
        self.check = check.check
        self.publisher = publisher

    async def write(self, verdicts: LineVerdicts, subject: str) -> Publication:
        """Write the good events; return what the broker had answered after 5 s.

        SentEvents without an acknowledgement may still arrive, and sending them again is harmless.
        """
        headers = [(SUBJECT_HEADER, subject.encode())]
        return await self.publisher.publish(
            verdicts.records, headers=headers, within_s=ANSWER_WITHIN_S
        )


def load_writer(config: Config) -> SwapWriter:
    """Load the decoder and make the producer, which connects at `start`. Takes a second or two."""
    publisher = SwapPublisher(config, timeout_ms=_GIVE_UP_MS)
    return SwapWriter(EventCheck(config.max_future_ms), publisher)
