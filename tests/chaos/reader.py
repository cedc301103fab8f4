"""A reader like a web node: the real board and the real feed, on its own thread and event loop.

Records every row that the board shows and every step back that it makes. It can also send a board's
resync request to an owner, to see the owner's state directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from aggregator.contracts.names import resync_subject
from aggregator.contracts.stats import ResyncChunk, ResyncRequest, TokenStats
from aggregator.runtime.clock import monotonic_ms
from api.board.board import Board, PartitionStatus
from api.board.feed import Feed
from tests.support.loop_thread import LoopThread

T = TypeVar("T")

_WATCH_S = 0.02
_ANSWER_S = 1.0

_FIELDS = TokenStats.__struct_fields__


class Reader:
    """Watches inside `with`. `shown`: every row that was shown; `steps_back`: what went back."""

    def __init__(self, nats_url: str) -> None:
        self.shown: list[TokenStats] = []
        self.steps_back: list[str] = []
        self._url = nats_url
        self._board = Board(stale_after_ms=3_000)
        self._feed = Feed(self._board, nats_url, monotonic_ms)
        self._rows: dict[tuple[str, int], TokenStats] = {}
        self._positions: dict[int, PartitionStatus] = {}
        self._thread = LoopThread("reader")
        self._watch: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._thread.__enter__()
        self._call(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call(self._end())
        finally:
            self._thread.__exit__()

    def status(self) -> dict[int, PartitionStatus]:
        """Return the board's partitions by number."""

        async def look() -> dict[int, PartitionStatus]:
            return {each.partition: each for each in self._board.status(monotonic_ms())}

        return self._call(look())

    def rows(self) -> dict[str, TokenStats]:
        """Return the rows that the board shows now, by token id."""

        async def look() -> dict[str, TokenStats]:
            # A board's row has more fields than an owner's: what operators registered of the token.
            return {
                token_id: TokenStats(**{name: getattr(row, name) for name in _FIELDS})
                for token_id, row in self._board.rows.items()
            }

        return self._call(look())

    def owner_state(self, partition: int, epoch: int) -> list[TokenStats] | None:
        """Return the live state of the owner under `epoch`; None where it does not answer so."""
        try:
            return self._call(self._ask(partition, epoch))
        except (OSError, TimeoutError, NatsError):
            return None

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return self._thread.call(work, 30)

    async def _begin(self) -> None:
        self._board.listen(self._changed)
        self._feed.start()
        self._watch = asyncio.create_task(self._watch_positions())

    async def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        await self._feed.stop()

    def _changed(self, token_id: str) -> None:
        row = self._board.rows.get(token_id)
        if row is None:
            return
        self.shown.append(row)
        key = (token_id, row.partition)
        before = self._rows.get(key)
        if before is not None and (
            (row.epoch, row.seq) < (before.epoch, before.seq)
            or row.next_offset < before.next_offset
        ):
            self.steps_back.append(
                f"{token_id} on {row.partition}: from {_position(before)} to {_position(row)}"
            )
        self._rows[key] = row

    async def _watch_positions(self) -> None:
        while True:
            for status in self._board.status(monotonic_ms()):
                before = self._positions.get(status.partition)
                if before is not None and (
                    (status.epoch, status.seq) < (before.epoch, before.seq)
                    or status.next_offset < before.next_offset
                ):
                    self.steps_back.append(
                        f"partition {status.partition}: "
                        f"from {_position(before)} to {_position(status)}"
                    )
                self._positions[status.partition] = status
            await asyncio.sleep(_WATCH_S)

    async def _ask(self, partition: int, epoch: int) -> list[TokenStats] | None:
        client = Client()
        await client.connect(self._url, allow_reconnect=False, connect_timeout=2)
        try:
            inbox = client.new_inbox()
            answers = await client.subscribe(inbox)
            question = msgspec.json.encode(ResyncRequest(epoch=0, since=0))
            await client.publish(resync_subject(partition), question, reply=inbox)
            chunks: dict[int, ResyncChunk] = {}
            while True:
                message = await answers.next_msg(timeout=_ANSWER_S)
                if not message.data:
                    return None
                chunk = msgspec.json.decode(message.data, type=ResyncChunk)
                if chunk.epoch != epoch or chunk.state != "live":
                    continue
                chunks[chunk.chunk] = chunk
                if len(chunks) == chunk.chunks:
                    rows = [raw for number in sorted(chunks) for raw in chunks[number].tokens]
                    return [msgspec.json.decode(raw, type=TokenStats) for raw in rows]
        finally:
            await client.close()


def _position(of: TokenStats | PartitionStatus) -> tuple[int, int, int]:
    return of.epoch, of.seq, of.next_offset
