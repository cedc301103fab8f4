"""Read the rows that owners saved in Redis, for a node that starts while a partition has no owner.

They are read if a partition has shown nothing for a while, and are shown as stale until an owner's
answer replaces them (DESIGN 6). This module only reads; `aggregator/redis/board_rows.py` describes
what is stored.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
import structlog
from redis.exceptions import RedisError

from aggregator.contracts.names import BoardKeys, board_keys
from aggregator.contracts.stats import TokenStats
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.redis_client import async_redis_client
from api.board.board import Board
from api.board.partition import SavedRows
from api.board.row import TokenRow

log = structlog.get_logger(__name__)

# An owner that is running answers within this time, so that nothing needs to be read.
_FIRST_S: Final = 1.5
_LONGEST_S: Final = 30.0
_ROWS_A_CALL: Final = 200

_decode_row = msgspec.json.Decoder(TokenRow).decode


class SavedRowsReader:
    """Fill the partitions of `board` that show nothing from the Redis at `url`."""

    def __init__(self, board: Board, url: str, topic: str, partitions: int) -> None:
        self._board = board
        self._url = url
        self._topic = topic
        self._partitions = partitions

    async def run(self) -> None:
        """Call `fill` from time to time, as long as the node runs."""
        backoff = Backoff(_FIRST_S, _LONGEST_S, spread=(0.8, 1.2))
        while True:
            await asyncio.sleep(backoff.pause_s())
            try:
                await self.fill()
            except (RedisError, OSError, msgspec.MsgspecError, ValueError) as error:
                log.warning("saved_rows_unread", error=str(error))

    def _wanted(self) -> list[int]:
        if self._board.partitions_known():
            return self._board.without_state()
        return list(range(self._partitions))

    async def fill(self) -> None:
        """Show the saved rows of the partitions that show nothing.

        Raise RedisError, OSError, and ValueError or msgspec.MsgspecError like `read_saved`.
        """
        partitions = self._wanted()
        if not partitions:
            return
        async with async_redis_client(self._url) as client:
            for partition in partitions:
                saved = await read_saved(client, self._topic, partition)
                if saved is not None:
                    self._board.saved(saved)
                    log.info("saved_rows_shown", partition=partition, rows=len(saved.rows))


async def read_saved(client: Any, topic: str, partition: int) -> SavedRows | None:
    """Return the saved rows of a partition; None if there are none.

    Raise RedisError, and ValueError or msgspec.MsgspecError for data that cannot be decoded. A save
    may run at the same time, so that some rows are newer than the head.
    """
    keys: BoardKeys = board_keys(topic, partition)
    head = await client.hgetall(keys.head)
    if b"seq" not in head:
        return None
    rows: dict[str, TokenStats] = {}
    cursor = 0
    while True:
        cursor, found = await client.hscan(keys.rows, cursor, count=_ROWS_A_CALL)
        for raw in found.values():
            row = _decode_row(raw)
            rows[row.token_id] = row
        if cursor == 0:
            break
    epoch = int(head[b"epoch"])
    of_epoch = [row for row in rows.values() if row.epoch == epoch]
    return SavedRows(
        partition=partition,
        partitions=int(head[b"partitions"]),
        epoch=epoch,
        seq=max([int(head[b"seq"]), *(row.seq for row in of_epoch)]),
        next_offset=max([int(head[b"next_offset"]), *(row.next_offset for row in of_epoch)]),
        rows=of_epoch,
    )
