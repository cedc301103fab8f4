"""The board rows: the last published row of each token, kept in Redis for web nodes.

A web node that starts while a partition has no owner reads these rows and shows them as stale
(DESIGN 6, `api/board/saved.py`). Nothing is counted from them. If Redis lost some of them, the
owner saves all rows again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from aggregator.contracts.names import board_keys
from aggregator.redis.client import RedisClient
from aggregator.runtime.errors import Fenced, Retry

_SCRIPT: Final = "board_save.lua"
# Keeps each call below a few milliseconds of Redis, so that snapshots get through in between.
_CHUNK_BYTES: Final = 512 * 1024
_FENCED: Final = 0
_LOST: Final = -1


class RowsLost(Retry):
    """The rows of the earlier save are gone: save all rows."""


class RedisBoardRows:
    """The board rows of one topic. Only one thread at a time may use it."""

    def __init__(self, url: str, topic: str) -> None:
        self._client = RedisClient(url, retries=True)
        self._topic = topic

    def save(
        self,
        partition: int,
        *,
        epoch: int,
        since: int | None,
        seq: int,
        next_offset: int,
        partitions: int,
        changed: Mapping[str, bytes],
        gone: Sequence[str],
    ) -> None:
        """Bring the saved rows from the seq `since` to `seq`.

        With `since` None, `changed` holds all rows and replaces what was saved. Raises RowsLost if
        the rows of `since` are gone, Fenced if an owner of a higher epoch saves, and Retry if Redis
        cannot be reached: some rows may have been saved then.
        """
        keys = list(board_keys(self._topic, partition))
        before = "" if since is None else since
        head: list[str | int] = ["", "", ""]
        whole = since is None
        chunks = list(_chunks(changed))
        for index, rows in enumerate(chunks):
            last = index == len(chunks) - 1
            if last:
                head = [seq, next_offset, partitions]
            names = list(gone) if index == 0 else []
            arguments: list[str | bytes | int] = [
                *(epoch, int(whole), before, *head, len(names)),
                *names,
                *rows,
            ]
            done = self._client.call(_SCRIPT, keys, arguments)
            if done == _FENCED:
                raise Fenced(f"partition {partition} has an owner above epoch {epoch}")
            if done == _LOST:
                raise RowsLost(f"the board rows of partition {partition} are gone")
            whole = False

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _chunks(changed: Mapping[str, bytes]) -> Iterator[list[str | bytes]]:
    """Yield lists of token id, row, token id, row, ... of at most _CHUNK_BYTES; at least one."""
    rows: list[str | bytes] = []
    size = 0
    for token_id, row in changed.items():
        if rows and size + len(row) > _CHUNK_BYTES:
            yield rows
            rows, size = [], 0
        rows += (token_id, row)
        size += len(row)
    yield rows
