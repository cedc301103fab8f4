"""The rows that owners left in Redis, for a node that starts while a partition has no owner.

They are read where a partition has shown nothing for a while, and are shown as stale: the owner's
own answer replaces them (DESIGN 6). Reads only; what is kept there is told in
`aggregator/redis/board_rows.py`.
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

# An owner that is there answers within this time, and then nothing need be read.
_FIRST_S: Final = 1.5
_LONGEST_S: Final = 30.0
_ROWS_A_CALL: Final = 200

_decode_row = msgspec.json.Decoder(TokenRow).decode


class SavedRowsReader:
    """Fills the partitions of `board` that show nothing from the Redis at `url`."""

    def __init__(self, board: Board, url: str, topic: str, partitions: int) -> None:
        self._board = board
        self._url = url
        self._topic = topic
        self._partitions = partitions

    async def run(self) -> None:
        """Look now and then, for as long as the node lives."""
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
        """Show what is there of the partitions that show nothing.

        Raises RedisError, OSError, and ValueError or msgspec.MsgspecError as `read_saved`.
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
    """What is saved of a partition, None where nothing is.

    Raises RedisError, and ValueError or msgspec.MsgspecError for what cannot be read. A save may
    go on meanwhile, so that some rows are newer than the head says.
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
