"""What one step asks of one node: blocks by number, and their logs before it is their turn."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Protocol, Self

from sources.evm.backfill import BlockLogs
from sources.evm.ports import EvmNode, LogFilter, NodeChoice, Unreachable
from sources.evm.types import Block, BlockRef, EvmLog

_AHEAD: Final = 8


class WantedBlock(Protocol):
    """What a source wants of a block."""

    @property
    def wanted(self) -> LogFilter:
        """The logs."""
        ...

    @property
    def senders(self) -> bool:
        """Whether the senders of the transactions are needed."""
        ...


class Lookahead:
    """Answers of a node during one step of the follower, which begins at the block `top`.

    While blocks are missing up to `top`, several are asked for together. A context manager: what
    is under way at its end is cancelled.
    """

    def __init__(self, node: EvmNode, nodes: NodeChoice, wanted: WantedBlock, top: Block) -> None:
        self.answers: dict[int, BlockRef | None] = {top.number: top.ref}
        self._node = node
        self._nodes = nodes
        self._wanted = wanted
        self._top = top.number
        self._blocks = {top.hash: top}
        self._reading: dict[str, asyncio.Task[BlockLogs]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._reading.values():
            task.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)

    async def ask(self, number: int, next_number: int) -> None:
        """Ask for a block, and for those after it if it is the next one to read."""
        numbers = [number]
        if number == next_number:
            numbers = list(range(number, min(number + _AHEAD, self._top + 1)))
        numbers = [each for each in numbers if each not in self.answers]
        for each, block in zip(
            numbers,
            await asyncio.gather(*(self._node.block(each) for each in numbers)),
            strict=True,
        ):
            self.answers[each] = None if block is None else block.ref
            if block is not None:
                self._blocks[block.hash] = block

    async def read(self, ref: BlockRef) -> BlockLogs:
        """Return a block with its logs; begin to read those that follow it."""
        for number in range(ref.number, ref.number + _AHEAD):
            following = self.answers.get(number)
            if following is not None and following.hash not in self._reading:
                self._reading[following.hash] = asyncio.create_task(self._read(following.hash))
        self.answers.pop(ref.number - 1, None)
        return await self._reading.pop(ref.hash)

    async def _read(self, block_hash: str) -> BlockLogs:
        header = self._blocks[block_hash]
        if not self._wanted.senders:
            return BlockLogs(header, await self._logs(header))
        logs, block = await asyncio.gather(
            self._logs(header), self._node.block_with_senders(block_hash)
        )
        if block is None or block.hash != block_hash:
            raise Unreachable(f"{self._node.name}: no block {block_hash}, which it announced")
        return BlockLogs(block, logs)

    async def _logs(self, block: Block) -> list[EvmLog]:
        logs = await self._nodes.logs_of(self._node, block, self._wanted.wanted)
        if any(log.block_hash != block.hash for log in logs):
            raise Unreachable(f"{self._node.name}: logs of another block than {block.hash}")
        return logs
