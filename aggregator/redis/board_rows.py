"""The board rows: what an owner last published of each token, kept in Redis for web nodes.

A web node that starts while a partition has no owner reads them, and shows them as stale (DESIGN 6,
`api/board/saved.py`). They are a convenience and no state: nothing is counted from them, so a Redis
that lost some is no new incarnation here; the owner saves them whole again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from redis.exceptions import ReadOnlyError, RedisError

from aggregator.contracts.names import board_keys
from aggregator.redis.session import leave_replica
from aggregator.runtime.errors import Fenced, Retry
from aggregator.runtime.lua import load_lua
from aggregator.runtime.redis_client import redis_client

_SCRIPT: Final = Path(__file__).parent / "lua" / "board_save.lua"
# One call occupies Redis for a few milliseconds at most, and others claim in between.
_CHUNK_BYTES: Final = 512 * 1024
_FENCED: Final = 0
_LOST: Final = -1


class RowsLost(Retry):
    """The rows saved before are not there: save all of them."""


class RedisBoardRows:
    """The board rows of one topic. Not for use from two threads at once."""

    def __init__(self, url: str, topic: str) -> None:
        self._redis = redis_client(url)
        self._script = self._redis.register_script(load_lua(_SCRIPT).text)
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
        """Make the rows saved at `since` those of `seq`; None: these are all that there are.

        Raises RowsLost where those of `since` are not there, Fenced where an owner of a higher
        epoch saves, Retry where Redis cannot be reached: some may have been saved.
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
            arguments = [epoch, int(whole), before, *head, len(names), *names, *rows]
            try:
                done = self._script(keys=keys, args=arguments)
            except RedisError as error:
                if isinstance(error, ReadOnlyError):
                    leave_replica(self._redis)
                raise Retry(f"redis: saving board rows: {error}") from error
            if done == _FENCED:
                raise Fenced(f"partition {partition} has an owner above epoch {epoch}")
            if done == _LOST:
                raise RowsLost(f"the board rows of partition {partition} are gone")
            whole = False

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


def _chunks(changed: Mapping[str, bytes]) -> Iterator[list[str | bytes]]:
    """Token id, row, token id, row, ... of at most _CHUNK_BYTES; one list at least."""
    rows: list[str | bytes] = []
    size = 0
    for token_id, row in changed.items():
        if rows and size + len(row) > _CHUNK_BYTES:
            yield rows
            rows, size = [], 0
        rows += (token_id, row)
        size += len(row)
    yield rows
