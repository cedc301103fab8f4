"""The loop of an EVM source on a chain in memory: forks, kills and repeats at every point."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.runtime.errors import Fatal
from sources.evm.source import FollowSettings
from tests.fakes.sources import MemoryBroker
from tests.unit.sources.evm.chain_model import ForkingChain
from tests.unit.sources.evm.source_world import (
    WANTED,
    Killed,
    MemoryNode,
    counted,
    expected,
    source,
)
from tests.unit.sources.evm.test_follower import MOVES, move


class Ended(Exception):
    """Nothing is left to do."""


async def live(
    chain: ForkingChain,
    broker: MemoryBroker,
    moves: list[tuple[str, int, int]],
    data: st.DataObject,
    node: MemoryNode,
) -> None:
    """Run processes of a source, one after the other, until all moves are made and followed."""
    kills = 6

    def dies(where: str) -> bool:
        nonlocal kills
        if kills and data.draw(st.integers(0, 9)) == 0:
            kills -= 1
            return True
        return False

    def change() -> None:
        if moves and data.draw(st.integers(0, 3)) == 0:
            move(chain, *moves.pop(0))

    idle = 0

    def when_idle() -> None:
        nonlocal idle
        if moves:
            move(chain, *moves.pop(0))
        elif idle == 0:
            idle = 1
            # A node whose chain got shorter proves nothing: let it grow past all that was sent.
            chain.mine(20)
        else:
            raise Ended

    node.before_answer = change
    for _ in range(kills + 2):
        process, journal = source(chain, broker, when_idle=when_idle, dies=dies, node=node)
        try:
            await process.run(await journal.own())
        except Killed:
            await journal.lose()
        except Ended:
            return
    raise AssertionError("the source did not end")


@settings(max_examples=60, deadline=None)
@given(MOVES, st.data())
def test_killed_at_any_point_it_sends_the_canonical_chain(
    moves: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    chain, broker = ForkingChain(), MemoryBroker()
    asyncio.run(live(chain, broker, list(moves), data, MemoryNode(chain)))
    assert counted(broker.records) == expected(chain)


@settings(max_examples=20, deadline=None)
@given(MOVES, st.data(), st.integers(40, 120))
def test_a_long_way_by_ranges_and_then_block_by_block(
    moves: list[tuple[str, int, int]], data: st.DataObject, blocks: int
) -> None:
    chain, broker = ForkingChain(), MemoryBroker()
    chain.mine(blocks)
    node = MemoryNode(chain)
    node.finality = 64
    asyncio.run(live(chain, broker, list(moves), data, node))
    assert counted(broker.records) == expected(chain)


def stop() -> None:
    raise Ended


async def run_until_idle(chain: ForkingChain, broker: MemoryBroker, **more: object) -> MemoryNode:
    node = MemoryNode(chain)
    node.finality = 64
    process, journal = source(chain, broker, when_idle=stop, node=node, **more)  # type: ignore[arg-type]
    entries = await journal.own()
    try:
        with pytest.raises(Ended):
            await process.run(entries)
    finally:
        await journal.close()
    return node


async def test_ranges_are_read_only_up_to_the_finalised_block() -> None:
    chain, broker = ForkingChain(), MemoryBroker()
    chain.mine(200)
    node = await run_until_idle(chain, broker)
    ranges = [call for call in node.calls if call.startswith("logs_in")]
    assert ranges == ["logs_in 0 99", "logs_in 100 136"]
    assert counted(broker.records) == expected(chain)


async def test_a_backfill_ends_at_its_last_block() -> None:
    chain, broker = ForkingChain(), MemoryBroker()
    chain.mine(200)
    process, journal = source(
        chain,
        broker,
        when_idle=stop,
        settings=FollowSettings("test", WANTED, from_block=10, to_block=150, keep=16),
    )
    await process.run(await journal.own())
    del chain.canonical[151:]
    assert counted(broker.records) == expected(chain, 10)


async def test_a_backfill_that_is_done_already_is_refused() -> None:
    chain, broker = ForkingChain(), MemoryBroker()
    chain.mine(20)
    await run_until_idle(chain, broker)
    backfill = FollowSettings("test", WANTED, from_block=3, to_block=9, keep=64)
    process, journal = source(chain, broker, when_idle=stop, settings=backfill)
    with pytest.raises(Fatal, match="past --to-block 9: give the backfill a name of its own"):
        await process.run(await journal.own())


async def test_confirmations_hold_back_the_newest_blocks() -> None:
    chain, broker = ForkingChain(), MemoryBroker()
    chain.mine(20)
    quiet = FollowSettings("test", WANTED, from_block=0, confirmations=5, keep=64)
    await run_until_idle(chain, broker, settings=quiet)
    del chain.canonical[16:]
    assert counted(broker.records) == expected(chain)


@pytest.mark.parametrize(
    ("from_block", "first"), [("latest", 20), (-5, 15), (-100, 0), (7, 7), (0, 0)]
)
async def test_where_it_begins(from_block: int, first: int) -> None:
    chain, broker = ForkingChain(), MemoryBroker()
    chain.mine(20)
    begins = FollowSettings("test", WANTED, from_block=from_block)
    await run_until_idle(chain, broker, settings=begins)
    assert counted(broker.records) == expected(chain, first)


async def test_deeper_than_kept_stops_with_the_command_to_run() -> None:
    chain, broker = ForkingChain(), MemoryBroker()
    chain.mine(20)
    shallow = FollowSettings("test", WANTED, from_block=0, keep=4)
    await run_until_idle(chain, broker, settings=shallow)
    chain.fork(8, 10)
    process, journal = source(chain, broker, when_idle=stop, settings=shallow)
    with pytest.raises(Fatal, match=r"manage\.py source reset test --from-block N"):
        await process.run(await journal.own())


async def test_a_reset_takes_back_what_is_kept_and_begins_where_it_says() -> None:
    chain, broker = ForkingChain(), MemoryBroker()
    chain.mine(20)
    shallow = FollowSettings("test", WANTED, from_block=0, keep=8)
    await run_until_idle(chain, broker, settings=shallow)
    chain.fork(8, 10)
    broker.journals["test"]["begin"] = b'{"from_block": 10}'
    await run_until_idle(chain, broker, settings=shallow)
    assert counted(broker.records) == expected(chain)
    assert "begin" not in broker.journals["test"]


async def test_the_journal_remembers_other_keeps() -> None:
    chain, broker = ForkingChain(), MemoryBroker()
    chain.mine(20)
    for keep in (8, 16, 5, 64):
        await run_until_idle(
            chain, broker, settings=FollowSettings("test", WANTED, from_block=0, keep=keep)
        )
        chain.fork(4, 6)
    await run_until_idle(chain, broker)
    assert counted(broker.records) == expected(chain)
