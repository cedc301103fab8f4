"""A source on a forking chain in memory, killed at any point, and what readers then count.

The oracle is the canonical chain: each of its blocks has `swaps` swaps, and nothing else counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from aggregator.runtime.errors import Retry
from sources.events import Outgoing, SwapEvent, encode
from sources.evm.ports import CallRefused, LogFilter
from sources.evm.source import EvmSource, FollowSettings
from sources.evm.types import Block, BlockRef, ChainIdentity, EvmLog
from sources.metrics import SourceMetrics
from tests.fakes.sources import MemoryBroker, MemoryJournal, MemorySink
from tests.unit.sources.evm.chain_model import ForkingChain

TOPIC = "0x" + "d7" * 32
WANTED = LogFilter((TOPIC,))
TOKEN = "0x" + "aa" * 20


class Killed(Exception):
    """The process was killed here."""


def swaps_of(block: BlockRef) -> int:
    """Zero to three swaps a block, by its hash."""
    return int(block.hash, 16) % 4


def logs_of(block: BlockRef) -> list[EvmLog]:
    """Logs of a block. A swap of the same height is the same transaction on every fork."""
    return [
        EvmLog(
            address="0x" + "bb" * 20,
            topics=(TOPIC,),
            data="0x",
            block_number=hex(block.number),
            block_hash=block.hash,
            transaction_hash=f"0x{block.number * 10 + at:064x}",
            log_index=hex(at + int(block.hash, 16) % 2),
        )
        for at in range(swaps_of(block))
    ]


class MemoryNode:
    """A `Node` that shows a chain; `before_answer` may change the chain or kill the process."""

    def __init__(self, chain: ForkingChain, name: str = "memory") -> None:
        self.chain = chain
        self.name = name
        self.before_answer: Callable[[], None] = lambda: None
        self.finality: int | None = None
        self.calls: list[str] = []

    async def head(self) -> Block:
        self._called("head")
        return full(self.chain.head)

    async def finalized(self) -> Block | None:
        self._called("finalized")
        if self.finality is None:
            return None
        return full(self.chain.canonical[max(0, self.chain.head.number - self.finality)])

    async def block(self, number: int) -> Block | None:
        self._called(f"block {number}")
        block = self.chain.block(number)
        return None if block is None else full(block)

    async def block_with_senders(self, block_hash: str) -> Block | None:
        self._called("block_with_senders")
        block = self.chain.by_hash(block_hash)
        return None if block is None else full(block)

    async def logs_of(self, block_hash: str, wanted: LogFilter) -> list[EvmLog]:
        self._called("logs_of")
        block = self.chain.by_hash(block_hash)
        if block is None:
            raise CallRefused("unknown block")
        return logs_of(block)

    async def logs_in(self, first: int, last: int, wanted: LogFilter) -> list[EvmLog]:
        self._called(f"logs_in {first} {last}")
        return [log for block in self.chain.canonical[first : last + 1] for log in logs_of(block)]

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self.before_answer()


def full(block: BlockRef) -> Block:
    return Block(block.number, block.hash, block.parent, 1_700_000_000 + block.number)


class OneNode:
    """A `NodeChoice` of one node. `when_idle` is called instead of a wait for news."""

    def __init__(self, node: MemoryNode, when_idle: Callable[[], None]) -> None:
        self.node = node
        self.when_idle = when_idle
        self.failures: list[Retry] = []

    async def identify(self, expected: ChainIdentity | None) -> ChainIdentity:
        return expected or ChainIdentity(1, "0x0")

    async def choose(self) -> MemoryNode:
        return self.node

    def failed(self, node: object, error: Retry) -> None:
        self.failures.append(error)

    def worked(self, node: object) -> None:
        self.failures.clear()

    async def logs_of(self, node: MemoryNode, block: Block, wanted: LogFilter) -> list[EvmLog]:
        return await node.logs_of(block.hash, wanted)

    async def news(self) -> None:
        self.when_idle()


class PlainReader:
    """A `BlockReader` that makes one event of each log."""

    references: LogFilter | None = None

    def __init__(self) -> None:
        self.fail: Callable[[], None] = lambda: None
        self.observed: list[int] = []

    async def read(self, block: Block, logs: Sequence[EvmLog]) -> list[Outgoing]:
        self.fail()
        return [
            encode(
                SwapEvent(
                    chain="anvil",
                    tx_hash=log.transaction_hash,
                    log_index=int(log.log_index, 16),
                    timestamp=block.timestamp * 1000,
                    token=TOKEN,
                    side="buy",
                    amount="1",
                    block_number=block.number,
                    block_hash=block.hash,
                )
            )
            for log in logs
        ]

    async def read_final(self, blocks: Sequence[tuple[Block, Sequence[EvmLog]]]) -> list[Outgoing]:
        return [one for block, logs in blocks for one in await self.read(block, logs)]

    async def observe(self, blocks: Sequence[tuple[Block, Sequence[EvmLog]]]) -> None:
        self.observed += [block.number for block, _ in blocks]


class DyingJournal(MemoryJournal):
    """A journal whose process may be killed before a write, in the middle of it, or after it."""

    def __init__(self, broker: MemoryBroker, dies: Callable[[str], bool]) -> None:
        super().__init__("test", broker)
        self._dies = dies

    async def write(self, entries: Mapping[str, bytes | None]) -> None:
        for key, value in entries.items():
            if self._dies("journal"):
                raise Killed
            await super().write({key: value})
        if self._dies("journal"):
            raise Killed


class DyingSink(MemorySink):
    """A sink whose process may be killed before, between and after the records of a send."""

    def __init__(self, broker: MemoryBroker, dies: Callable[[str], bool]) -> None:
        super().__init__(broker)
        self._dies = dies

    async def send(self, records: Sequence[Outgoing]) -> None:
        for record in records:
            if self._dies("sink"):
                raise Killed
            await super().send([record])
        if self._dies("sink"):
            raise Killed


def counted(records: Sequence[Outgoing]) -> dict[tuple[str, int], str]:
    """Return what readers count, as identity and block, by the rules of DESIGN 4.

    Per identity the state toggles, a repeat of the present state changes nothing, and a removal
    that names another block than the one counted last is ignored.
    """
    state: dict[tuple[str, int], str | None] = {}
    last: dict[tuple[str, int], str] = {}
    for _, value in records:
        event = json.loads(value)
        identity = event["tx_hash"], event["log_index"]
        if not event.get("removed"):
            if state.get(identity) is None:
                state[identity] = last[identity] = event["block_hash"]
            continue
        assert identity in last, "a retraction of what was never sent"
        if last[identity] == event["block_hash"]:
            state[identity] = None
    return {identity: block for identity, block in state.items() if block is not None}


def expected(chain: ForkingChain, first: int = 0) -> dict[tuple[str, int], str]:
    return {
        (log.transaction_hash, int(log.log_index, 16)): log.block_hash
        for block in chain.canonical[first:]
        for log in logs_of(block)
    }


def source(
    chain: ForkingChain,
    broker: MemoryBroker,
    *,
    when_idle: Callable[[], None],
    dies: Callable[[str], bool] = lambda where: False,
    settings: FollowSettings | None = None,
    node: MemoryNode | None = None,
    reader: PlainReader | None = None,
) -> tuple[EvmSource, DyingJournal]:
    """A process of the source: one that was killed is followed by another on the same broker."""
    journal = DyingJournal(broker, dies)
    made = EvmSource(
        settings or FollowSettings("test", WANTED, from_block=0, keep=64),
        nodes=OneNode(node or MemoryNode(chain), when_idle),
        reader=reader or PlainReader(),
        journal=journal,
        sink=DyingSink(broker, dies),
        metrics=SourceMetrics("test", "evm", "anvil"),
    )
    return made, journal
