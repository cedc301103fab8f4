"""The markers: one Redis string per swap that names the log position at which the swap counts.

A plain "seen" flag loses a swap when the process dies between writing the flag and applying the
swap. A position does not: a replay of the log reaches the same position and gets the same verdict
(docs/exactly-once.md). Sending a claim and receiving its verdicts are two calls, so the caller
can decode the next batch while Redis decides this one.
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
    RedisPort,
    RedisSession,
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


class Markers(RedisPort, Protocol):
    """Decides once, for every reader of the log, which occurrence of a swap counts.

    A batch belongs to one partition. It has an offset, a marker (16 bytes, in a sequence or joined)
    and a kind for each record, and at most MAX_CLAIMS records. Its answer is one letter of
    `Verdict` per record, in the same order. A repeated claim of the same position gets the same
    answer, from any process; any other position of the same swap is a duplicate.
    """

    def send(
        self,
        partition: int,
        offsets: Sequence[int],
        markers: Sequence[bytes] | bytes,
        kinds: str,
    ) -> None:
        """Send a batch without waiting; `kinds` comes from `kinds_of`. Errors appear in `receive`.

        A batch that was sent and not received is abandoned; the store may have decided it.
        """

    def receive(self) -> str:
        """Return the verdicts on the batch that was sent last.

        Raises Retry if the store cannot be reached. The outcome is unknown then; call `receive`
        again, which sends the batch again and is safe. Raises NewIncarnation if the store may have
        lost claims.
        """

    def claim(
        self,
        partition: int,
        offsets: Sequence[int],
        markers: Sequence[bytes] | bytes,
        kinds: str,
    ) -> str:
        """Call `send`, then `receive`."""


def kinds_of(removed: Sequence[bool], late: Sequence[bool], retraction: str = "R") -> str:
    """Return one letter per record: R for a retraction, L for a late swap, A for any other swap.

    An archiver passes "r" for `retraction`: in the archive the retraction of a late swap is undone
    too, because the late swap was archived.
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
    """`Markers` on one Redis or Valkey node. A marker expires `ttl_ms` after it was written.

    `archive_topic` is the topic whose archivers must check in before anything is claimed in a new
    run of Redis, "" without an archive; until then `receive` raises NotCheckedIn. `archives` is
    true in an archiver.
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
        """See `RedisPort`."""
        self._session.connect()

    def ping(self) -> None:
        """See `RedisPort`."""
        self._session.ping()

    def close(self) -> None:
        """See `RedisPort`."""
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
            # `receive` sends the batch again.
            self._pending = None

    def receive(self) -> str:
        """See `Markers`."""
        assert self._asked is not None
        if self._asked[0].run_id != self._session.incarnation.run_id:
            # The socket may still hold verdicts of the last run, whose markers may be lost.
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
        """Send the batch to the run of Redis that was bound at `send`; None for an empty batch."""
        assert self._asked is not None
        incarnation, keys, question = self._asked
        return incarnation.start(_SCRIPT, keys, question) if question else None

    def _drop(self) -> None:
        if self._pending is not None:
            self._pending.abandon()
            self._pending = None
