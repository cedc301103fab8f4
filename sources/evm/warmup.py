"""Reference prices for a source that begins: the reference pools' swaps of the last ten minutes.

Without them every swap would be unpriced until each reference pool has traded again.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

import structlog

from sources.evm.backfill import BlockLogs, ChainBackfill
from sources.evm.ports import BlockReader, EvmNode
from sources.evm.ranges import RangeLength

_REACH_S: Final = 600
_SAMPLE_BLOCKS: Final = 100
_MOST_BLOCKS: Final = 5_000

log = structlog.get_logger(__name__)


async def warm_up(node: EvmNode, reader: BlockReader, first: int) -> None:
    """Let the reader observe what its reference pools traded before the block `first`.

    Raises Retry where the node does not answer; the reader has then observed nothing.
    """
    if reader.references is None or first == 0:
        return
    last = min(first - 1, (await node.head()).number)
    begin = max(0, last - await _blocks_of_reach(node, last) + 1)
    backfill = ChainBackfill(node, reader.references, senders=False, length=RangeLength())
    found: list[BlockLogs] = []
    async with aclosing(backfill.slices(begin, last)) as slices:
        async for part in slices:
            found += part.found
    await reader.observe(found)
    log.info("source_warmed_up", blocks=last - begin + 1, blocks_with_trades=len(found))


async def _blocks_of_reach(node: EvmNode, last: int) -> int:
    """Return how many blocks the ten minutes before a block have, by the pace of the newest."""
    sample = min(_SAMPLE_BLOCKS, last)
    newest, older = await node.block(last), await node.block(last - sample)
    if newest is None or older is None:
        return 1
    seconds = newest.timestamp - older.timestamp
    return min(_MOST_BLOCKS, _REACH_S * sample // seconds + 1) if seconds > 0 else _MOST_BLOCKS
