"""The rows that an owner last published, and the answers to web nodes that missed some patches.

An answer comes from what was published, never from the window engine. So it belongs to one
(epoch, seq), costs no serialisation of rows, and cannot run ahead of the patches. Pure; the
publisher gives it a thread and a connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from aggregator.contracts.stats import ResyncChunk, ResyncRequest

CHUNK_BYTES: Final = 256 * 1024
"""Most bytes of token rows in one message; NATS takes 1 MiB by default."""


class Patch(msgspec.Struct, frozen=True, gc=False):
    """One token's newest row, serialised once. `last` marks the final row of an idle token."""

    token_id: str
    seq: int
    payload: bytes
    last: bool = False


class PublishedPartition:
    """The rows of one partition under one epoch, as published up to `seq` and `next_offset`."""

    def __init__(self, partition: int, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self.seq = 0
        self.next_offset = 0
        self.state = "rebuilding"
        self._rows: dict[str, Patch] = {}
        self._gone: dict[str, int] = {}
        self._forgotten_seq = 0

    def apply(self, patches: Sequence[Patch], seq: int, next_offset: int) -> None:
        """Apply the patches up to `seq`, which cover the offsets below `next_offset`."""
        for patch in patches:
            # Removing first keeps the insertion order equal to the order of seq, so that a partial
            # answer reads from the end and stops early.
            self._rows.pop(patch.token_id, None)
            self._rows[patch.token_id] = patch
            if patch.last:
                self._gone[patch.token_id] = patch.seq
            else:
                self._gone.pop(patch.token_id, None)
        self.seq = seq
        self.next_offset = next_offset

    def forget_gone(self) -> None:
        """Drop the final rows of idle tokens.

        A node that asks for changes since before these rows then gets a full answer, because a
        partial one could no longer say that the tokens are gone.
        """
        for token_id, seq in self._gone.items():
            self._forgotten_seq = max(self._forgotten_seq, seq)
            self._rows.pop(token_id, None)
        self._gone.clear()

    def answer(self, request: ResyncRequest) -> list[bytes]:
        """Return the messages that answer `request`, in order."""
        since = request.since
        if request.epoch != self.epoch or since < self._forgotten_seq or since > self.seq:
            since = 0
        chunks = [[]] if self.state == "rebuilding" else list(_chunks(self._newer(since)))
        return [
            msgspec.json.encode(
                ResyncChunk(
                    partition=self.partition,
                    epoch=self.epoch,
                    seq=self.seq,
                    next_offset=self.next_offset,
                    state=self.state,
                    full=since == 0,
                    chunk=index,
                    chunks=len(chunks),
                    tokens=[msgspec.Raw(payload) for payload in rows],
                )
            )
            for index, rows in enumerate(chunks)
        ]

    def _newer(self, since: int) -> list[bytes]:
        newer = []
        for patch in reversed(self._rows.values()):
            if patch.seq <= since:
                break
            newer.append(patch.payload)
        return newer


def _chunks(payloads: Iterable[bytes]) -> Iterable[list[bytes]]:
    """Group payloads to at most CHUNK_BYTES; yield at least one group, which may be empty."""
    rows: list[bytes] = []
    size = 0
    for payload in payloads:
        if rows and size + len(payload) > CHUNK_BYTES:
            yield rows
            rows, size = [], 0
        rows.append(payload)
        size += len(payload)
    yield rows
