"""What the loop of an EVM source needs: a node that answers, and a reader of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from aggregator.runtime.errors import Retry
from sources.events import Outgoing
from sources.evm.types import Block, ChainIdentity, EvmLog


class Unreachable(Retry):
    """The node did not answer: no connection, a cut, a server error or no time left."""


class RateLimited(Retry):
    """The node wants fewer calls; it may be asked again after `pause_s` seconds."""

    def __init__(self, message: str, pause_s: float) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class CallRefused(Retry):
    """The node answered with an error: this call, or its range, does not suit it."""


class LogFilter(NamedTuple):
    """Which logs a source asks for: any of the topics in the first place, from any address.

    `addresses` narrows the emitters where it is not empty.
    """

    topics: tuple[str, ...]
    addresses: tuple[str, ...] = ()


class EvmNode(Protocol):
    """One RPC endpoint of a chain. Every call raises Retry where the node does not answer it.

    All answers of one step come from one node, so that a block's hash and its logs belong together.
    """

    @property
    def name(self) -> str:
        """The endpoint without its secrets, for logs and messages."""
        ...

    async def head(self) -> Block:
        """Return the newest block, without senders."""
        ...

    async def finalized(self) -> Block | None:
        """Return the newest finalised block; None where the node does not know the tag."""
        ...

    async def block(self, number: int) -> Block | None:
        """Return the canonical block of a number, without senders; None if there is none yet."""
        ...

    async def block_with_senders(self, block_hash: str) -> Block | None:
        """Return the block of a hash with the sender of each transaction; None if unknown."""
        ...

    async def logs_of(self, block_hash: str, wanted: LogFilter) -> list[EvmLog]:
        """Return the logs of a block in their order. An unknown block is a Refused."""
        ...

    async def logs_in(self, first: int, last: int, wanted: LogFilter) -> list[EvmLog]:
        """Return the logs of the blocks `first` to `last`, both included, in their order.

        A node that has not got all these blocks may answer short: ask for finalised blocks only.
        """
        ...


class NodeChoice(Protocol):
    """The endpoints of a source: which one to ask, and when there may be news."""

    async def identify(self, expected: ChainIdentity | None) -> ChainIdentity:
        """Return the chain of the nodes, once one of them answers.

        From then on no node of another chain is chosen. Raises Fatal where a node is of another
        chain than `expected` or than the other nodes.
        """
        ...

    async def choose(self) -> EvmNode:
        """Return the node to ask in the next step; wait, with backoff, until one answers.

        Raises Fatal where the nodes are not of one chain, or disagree on a finalised block.
        """
        ...

    def failed(self, node: EvmNode, error: Retry) -> None:
        """Note that a step failed on a node, so that another one is chosen or a pause is made."""
        ...

    def worked(self, node: EvmNode) -> None:
        """Note that a node has answered all that a step asked: its next pause is short again."""
        ...

    async def logs_of(self, node: EvmNode, block: Block, wanted: LogFilter) -> list[EvmLog]:
        """Return the logs of a block from `node`.

        Where it answers none although the block's header may have some, ask it again, and then
        every other node.
        """
        ...

    async def news(self) -> None:
        """Return when a node announces something, or when it is time to ask without that."""
        ...


class BlockReader(Protocol):
    """Makes events of a block's logs: decodes, proves pools, prices. Blocks come in order.

    Every method raises Retry where a call that it needs was not answered: its blocks are then given
    again, so a call that fails leaves no trace of them in the reader.
    """

    @property
    def references(self) -> LogFilter | None:
        """The logs that `observe` needs; None where no pool prices others."""
        ...

    async def read(self, block: Block, logs: Sequence[EvmLog]) -> list[Outgoing]:
        """Return the events of a block in the order of its logs."""
        ...

    async def read_final(self, blocks: Sequence[tuple[Block, Sequence[EvmLog]]]) -> list[Outgoing]:
        """Return the events of final blocks, whose state the node may have forgotten."""
        ...

    async def observe(self, blocks: Sequence[tuple[Block, Sequence[EvmLog]]]) -> None:
        """Take the reference prices of blocks whose events are not wanted."""
        ...
