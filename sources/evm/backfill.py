"""Reads the logs of finalised blocks by ranges, several at a time, and yields them in order.

Only finalised blocks may be read so: a node answers a range beyond its head short, without an
error. Each slice asks for its last block first, which a node that lags does not have.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from sources.evm.ports import CallRefused, EvmNode, LogFilter, Unreachable
from sources.evm.ranges import RangeLength
from sources.evm.types import Block, EvmLog

_SLICES_AHEAD: Final = 4
_LOG_BYTES: Final = 700
"""The usual size of a swap's log in JSON, to bound an answer by bytes."""


class BlockLogs(NamedTuple):
    """A block and its logs in their order."""

    block: Block
    logs: Sequence[EvmLog]


class Slice(NamedTuple):
    """What was found up to the block `last`, from the last block of the slice before it."""

    last: Block
    found: list[BlockLogs]


class ChainBackfill:
    """Reads ranges of finalised blocks from one node.

    `senders` says whether the transactions' senders are needed; without them a block is not asked
    for where its logs have its time. `length` learns what the node accepts.
    """

    def __init__(
        self, node: EvmNode, wanted: LogFilter, *, senders: bool, length: RangeLength
    ) -> None:
        self._node = node
        self._wanted = wanted
        self._senders = senders
        self._length = length

    async def slices(self, first: int, last: int) -> AsyncGenerator[Slice, None]:
        """Yield the slices of the blocks `first` to `last`, both included, in order.

        Raises Retry where the node does not answer; the slices so far are complete.
        """
        under_way: deque[tuple[int, asyncio.Task[Slice | None]]] = deque()
        try:
            while first <= last or under_way:
                while first <= last and len(under_way) < _SLICES_AHEAD:
                    end = min(last, first + self._length.blocks - 1)
                    under_way.append((first, asyncio.create_task(self._slice(first, end))))
                    first = end + 1
                begin, task = under_way.popleft()
                part = await task
                if part is None:
                    # Those after it are as long: ask again from here on, for shorter ones.
                    await _cancel(task for _, task in under_way)
                    under_way.clear()
                    first = begin
                else:
                    yield part
        finally:
            await _cancel(task for _, task in under_way)

    async def _slice(self, first: int, last: int) -> Slice | None:
        """Return a slice, None where the node wants a shorter one."""
        end = await self._node.block(last)
        if end is None:
            raise Unreachable(f"{self._node.name}: no block {last}, although it is finalised")
        blocks = last - first + 1
        try:
            logs = await self._node.logs_in(first, last, self._wanted)
        except CallRefused:
            if blocks > 1:
                self._length.refused(blocks)
                return None
            # Some vendors limit a range of one block, but not a block.
            logs = await self._node.logs_of(end.hash, self._wanted)
        except Unreachable:
            if blocks > 1 and self._length.cut(blocks):
                return None
            raise
        self._length.answered(blocks, _LOG_BYTES * len(logs))
        found = [list(group) for _, group in groupby(logs, key=lambda log: log.block_hash)]
        read = await asyncio.gather(*(self._block(of[0]) for of in found))
        return Slice(end, [BlockLogs(block, of) for block, of in zip(read, found, strict=True)])

    async def _block(self, log: EvmLog) -> Block:
        """Return the block of a log, with senders where they are needed."""
        number = int(log.block_number, 16)
        if not self._senders and log.block_timestamp is not None:
            return Block(number, log.block_hash, "", int(log.block_timestamp, 16))
        if self._senders:
            block = await self._node.block_with_senders(log.block_hash)
        else:
            block = await self._node.block(number)
        if block is None or block.hash != log.block_hash:
            raise Unreachable(
                f"{self._node.name}: has logs of the finalised block {log.block_hash}, but no block"
            )
        return block


async def _cancel(tasks: Iterable[asyncio.Task[Slice | None]]) -> None:
    cancelled = list(tasks)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
