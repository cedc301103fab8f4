"""The markers: one Redis string a swap, that names the log position at which it counts.

Plain "have I seen this id" loses a swap when the process dies between the marker and the apply. A
position does not: whoever replays the log comes to the same position and is let through
(DESIGN 4 rules 1, 2, 6). Asking and being answered are two calls, so that the caller can decode its
next batch while Redis decides this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from aggregator.contracts.names import archive_key, checkin_key
from aggregator.redis.session import (
    Incarnation,
    NewIncarnation,
    NotCheckedIn,
    PendingCall,
    RedisSession,
    Session,
)
from aggregator.runtime.errors import Retry

__all__ = [
    "MAX_CLAIMS",
    "Markers",
    "NewIncarnation",
    "NotCheckedIn",
    "RedisMarkers",
    "kinds_of",
]

MAX_CLAIMS: Final = 2_000
_SCRIPT: Final = "claim.lua"


class Markers(Session, Protocol):
    """Decides once, for every reader of the log, which occurrence of a swap counts.

    A batch is of one partition: an offset, a marker (16 bytes, given one by one or joined) and a
    kind a record, at most MAX_CLAIMS of them. Its answer is one letter of `Verdict` a record, in
    the order asked. Asked again with the same position it answers the same, whoever asks; any other
    position of the same swap is a duplicate.
    """

    def send(
        self,
        partition: int,
        offsets: Sequence[int],
        markers: Sequence[bytes] | bytes,
        kinds: str,
    ) -> None:
        """Ask, and do not wait; `kinds` as of `kinds_of`. Raises nothing: `receive` does.

        A batch asked before and not received is dropped; it may have been decided.
        """

    def receive(self) -> str:
        """The verdicts on the batch sent last.

        Raises Retry when the store cannot be reached: nothing is known of the outcome, and
        `receive` again asks again, which is safe. Raises NewIncarnation when the store may have
        forgotten claims.
        """

    def claim(
        self,
        partition: int,
        offsets: Sequence[int],
        markers: Sequence[bytes] | bytes,
        kinds: str,
    ) -> str:
        """`send` and `receive`."""


def kinds_of(removed: Sequence[bool], late: Sequence[bool], retraction: str = "R") -> str:
    """A letter a record: R a retraction, L a swap whose bucket was closed, A any other swap.

    An archiver asks with the `retraction` "r": also the retraction of a late swap is undone there.
    """
    if True not in removed and True not in late:
        return "A" * len(removed)
    return "".join(
        [
            retraction if r else "L" if is_late else "A"
            for r, is_late in zip(removed, late, strict=True)
        ]
    )


class RedisMarkers:
    """`Markers` on one Redis or Valkey node. A marker is forgotten `ttl_ms` after it was made.

    `archive_topic` is the topic whose archivers must check in before anything is claimed in a new
    run of Redis, "" where there is no archive; until then `receive` raises NotCheckedIn. `archives`
    tells that it is an archiver who asks.
    """

    def __init__(
        self,
        session: RedisSession,
        ttl_ms: int,
        *,
        archive_topic: str = "",
        archives: bool = False,
    ) -> None:
        session.use(_SCRIPT)
        self._session = session
        self._ttl = str(ttl_ms)
        self._archive_topic = archive_topic
        self._archives = archives
        self._asked: tuple[Incarnation, tuple[bytes, ...], tuple[bytes | str, ...]] | None = None
        self._pending: PendingCall | None = None

    def connect(self) -> None:
        """See `Session`."""
        self._session.connect()

    def ping(self) -> None:
        """See `Session`."""
        self._session.ping()

    def close(self) -> None:
        """See `Session`."""
        self._drop()
        self._session.close()

    def send(
        self,
        partition: int,
        offsets: Sequence[int],
        markers: Sequence[bytes] | bytes,
        kinds: str,
    ) -> None:
        """See `Markers`."""
        self._drop()
        positions = f"{partition}:" + f",{partition}:".join(map(str, offsets))
        witness = str(offsets[-1] + 1) if offsets and self._archives else ""
        joined = markers if isinstance(markers, bytes) else b"".join(markers)
        question = (self._ttl, kinds, joined, positions, witness) if offsets else ()
        topic = self._archive_topic
        keys: tuple[bytes, ...] = ()
        if topic:
            keys = checkin_key(topic), archive_key(topic, partition)
        self._asked = self._session.incarnation, keys, question
        try:
            self._pending = self._start()
        except Retry:
            # `receive` asks again.
            self._pending = None

    def receive(self) -> str:
        """See `Markers`."""
        assert self._asked is not None
        if self._asked[0].run_id != self._session.incarnation.run_id:
            # Verdicts of the last run may lie in the socket still; its markers may be lost.
            self._drop()
            raise NewIncarnation("redis is another run than the claims were sent to")
        pending, self._pending = self._pending or self._start(), None
        if pending is None:
            return ""
        letters = pending.wait()
        assert isinstance(letters, bytes)
        return letters.decode()

    def claim(
        self,
        partition: int,
        offsets: Sequence[int],
        markers: Sequence[bytes] | bytes,
        kinds: str,
    ) -> str:
        """See `Markers`."""
        self.send(partition, offsets, markers, kinds)
        return self.receive()

    def _start(self) -> PendingCall | None:
        """Ask the run of Redis that was bound at `send`; None where there is nothing to ask."""
        assert self._asked is not None
        incarnation, keys, question = self._asked
        return incarnation.start(_SCRIPT, keys, question) if question else None

    def _drop(self) -> None:
        if self._pending is not None:
            self._pending.abandon()
            self._pending = None
