"""A source that begins observes what its reference pools traded in the ten minutes before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from aggregator.runtime.errors import Retry
from sources.evm.ports import Unreachable
from sources.evm.source import FollowSettings
from sources.evm.types import Block, EvmLog
from sources.evm.warmup import warm_up
from tests.fakes.sources import MemoryBroker
from tests.unit.sources.evm.chain_model import ForkingChain
from tests.unit.sources.evm.source_world import WANTED, MemoryNode, PlainReader, logs_of, source


class ObservingReader(PlainReader):
    """Has reference pools; notes how many logs it observed."""

    references = WANTED

    def __init__(self) -> None:
        super().__init__()
        self.logs = 0

    async def observe(self, blocks: Sequence[tuple[Block, Sequence[EvmLog]]]) -> None:
        await super().observe(blocks)
        self.logs += sum(len(logs) for _, logs in blocks)


def chain_of(blocks: int) -> ForkingChain:
    chain = ForkingChain()
    chain.mine(blocks - 1)
    return chain


def trading(chain: ForkingChain, begin: int, end: int) -> list[int]:
    return [block.number for block in chain.canonical[begin:end] if logs_of(block)]


@pytest.mark.parametrize(
    ("blocks", "first", "begin"),
    [
        pytest.param(1_000, 900, 299, id="ten minutes of blocks of a second"),
        pytest.param(1_000, 1_200, 399, id="a first block that does not exist yet"),
        pytest.param(50, 40, 0, id="a chain of less than ten minutes"),
        pytest.param(50, 0, 50, id="the genesis"),
        pytest.param(50, 1, 0, id="the block after the genesis"),
    ],
)
async def test_what_is_observed(blocks: int, first: int, begin: int) -> None:
    chain, reader = chain_of(blocks), ObservingReader()
    await warm_up(MemoryNode(chain), reader, first)
    assert reader.observed == trading(chain, begin, min(first, blocks))
    assert reader.logs == sum(len(logs_of(chain.canonical[at])) for at in reader.observed)


async def test_without_reference_pools_nothing_is_asked() -> None:
    node = MemoryNode(chain_of(50))
    await warm_up(node, PlainReader(), 40)
    assert node.calls == []


async def test_a_node_that_fails_meanwhile_leaves_nothing_observed() -> None:
    node, reader = MemoryNode(chain_of(50)), ObservingReader()

    def fail() -> None:
        if node.calls[-1].startswith("logs_in"):
            raise Unreachable("away")

    node.before_answer = fail
    with pytest.raises(Retry):
        await warm_up(node, reader, 40)
    assert reader.observed == []


async def test_a_source_observes_once_before_its_first_block() -> None:
    chain, reader = chain_of(50), ObservingReader()
    settings = FollowSettings("test", WANTED, from_block=40, to_block=45)
    made, journal = source(
        chain, MemoryBroker(), when_idle=lambda: None, settings=settings, reader=reader
    )
    async with asyncio.timeout(10):
        await made.run(await journal.own())
    assert reader.observed == trading(chain, 0, 40)
