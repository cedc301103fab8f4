"""Which of a source's RPC endpoints is asked: the first one that answers and does not lag.

Every endpoint is checked before its first use, so that a wrong one never mixes chains: its chain id
and genesis must be those of the source. Where there are several, they must agree on finalised
blocks; a disagreement stops the source, because no rule says which of them is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from aggregator.runtime.backoff import Backoff
from aggregator.runtime.errors import Fatal, Retry
from sources.evm.ports import CallRefused, EvmNode, LogFilter, RateLimited, Unreachable
from sources.evm.rpc import RpcNode
from sources.evm.types import Block, ChainIdentity, EvmLog

_LAG_BLOCKS: Final = 5
_COMPARED_EVERY_S: Final = 15.0
_POLL_S: Final = 2.0
_QUIET_POLL_S: Final = 6.0

log = structlog.get_logger(__name__)

Complain = Callable[[str], None]
"""Says to operators why a source waits."""


class _Endpoint:
    """An endpoint with what is known of it."""

    def __init__(self, node: RpcNode) -> None:
        self.node = node
        self.backoff = Backoff(first_s=0.1, longest_s=10.0)
        self.known = False
        self.head = -1

    @property
    def checked(self) -> bool:
        """Whether the node is of the chain, and still the same one."""
        return self.known and self.node.checked


class RpcNodes:
    """A `NodeChoice` of RPC endpoints, in the order in which they are preferred.

    It answers for contracts by the endpoint of the step that is under way.
    """

    def __init__(
        self,
        nodes: Sequence[RpcNode],
        *,
        complain: Complain | None = None,
        poll_s: float = _POLL_S,
        compared_every_s: float = _COMPARED_EVERY_S,
        lag_blocks: int = _LAG_BLOCKS,
    ) -> None:
        self._endpoints = [_Endpoint(node) for node in nodes]
        self._complain = complain
        self._poll_s = poll_s
        self._compared_every_s = compared_every_s
        self._lag_blocks = lag_blocks
        self._chain: ChainIdentity | None = None
        self._current: _Endpoint | None = None
        self._compare_at = 0.0

    async def identify(self, expected: ChainIdentity | None) -> ChainIdentity:
        """See `NodeChoice`."""
        self._chain = expected
        await self.choose()
        assert self._chain is not None
        return self._chain

    async def choose(self) -> RpcNode:
        """See `NodeChoice`."""
        while True:
            ready = [each for each in self._endpoints if each.backoff.left_s == 0]
            ready = [each for each in ready if each.checked or await self._check(each)]
            if len(self._endpoints) > 1 and self._time() >= self._compare_at:
                await self._compare(ready)
                continue
            newest = max((each.head for each in ready), default=-1)
            for each in ready:
                if each.head >= newest - self._lag_blocks:
                    self._take(each)
                    return each.node
            await asyncio.sleep(min(each.backoff.left_s for each in self._endpoints))

    def failed(self, node: EvmNode, error: Retry) -> None:
        """See `NodeChoice`."""
        for each in self._endpoints:
            if each.node is node:
                self._fail(each, error)

    def worked(self, node: EvmNode) -> None:
        """See `NodeChoice`."""
        for each in self._endpoints:
            if each.node is node:
                each.backoff.reset()

    async def logs_of(self, node: EvmNode, block: Block, wanted: LogFilter) -> list[EvmLog]:
        """See `NodeChoice`."""
        logs = await node.logs_of(block.hash, wanted)
        if logs or not block.may_have:
            return logs
        # A node that lags may know a block's header before its logs.
        others = [each.node for each in self._endpoints if each.node is not node and each.checked]
        for each in (node, *others):
            try:
                logs = await each.logs_of(block.hash, wanted)
            except Retry as error:
                if each is node:
                    raise
                log.debug("source_no_second_opinion", node=each.name, error=str(error))
                continue
            if logs:
                log.warning("source_logs_came_late", node=each.name, block=block.number)
                return logs
        return logs

    async def news(self) -> None:
        """See `NodeChoice`."""
        current = self._current
        if current is None:
            return
        announces = current.node.carrier.announces
        await current.node.carrier.news(_QUIET_POLL_S if announces else self._poll_s)

    async def call(self, to: str, data: str, block: str) -> str | None:
        """See `ContractCalls`."""
        return await self._asked().call(to, data, block)

    async def find(self, address: str, topics: Sequence[str]) -> EvmLog | None:
        """See `LogFinder`."""
        return await self._asked().find(address, topics)

    async def close(self) -> None:
        """Give up all connections."""
        for each in self._endpoints:
            await each.node.carrier.close()

    def _asked(self) -> RpcNode:
        if self._current is None:
            raise Retry("no RPC endpoint is chosen yet")
        return self._current.node

    def _take(self, endpoint: _Endpoint) -> None:
        if endpoint is not self._current:
            log.info("source_node_chosen", node=endpoint.node.name)
        self._current = endpoint

    def _fail(self, endpoint: _Endpoint, error: Retry) -> None:
        if isinstance(error, RateLimited):
            endpoint.backoff.hold(error.pause_s)
        else:
            endpoint.backoff.start()
        # What answers at this address after a cut may be another node.
        endpoint.known = endpoint.known and not isinstance(error, Unreachable)
        # A refused call is often a block that the chain dropped meanwhile.
        note = log.info if isinstance(error, CallRefused) else log.warning
        note("source_node_failed", node=endpoint.node.name, error=str(error))
        if self._complain is not None:
            self._complain(str(error))

    async def _check(self, endpoint: _Endpoint) -> bool:
        """Return whether an endpoint answers; it must be of the source's chain."""
        try:
            chain = await endpoint.node.chain()
        except Retry as error:
            self._fail(endpoint, error)
            return False
        expected = self._chain
        if expected is not None and not chain.matches(expected):
            raise Fatal(
                f"{endpoint.node.name} is of chain {chain.chain_id} (genesis {chain.genesis}), but "
                f"the source is of chain {expected.chain_id} (genesis {expected.genesis}): correct "
                "the URL, or give the source of the other chain another name"
            )
        if expected is None or expected.genesis is None:
            self._chain = chain
        endpoint.known = True
        return True

    async def _compare(self, ready: Sequence[_Endpoint]) -> None:
        """Ask all endpoints for their heads, and whether they agree on a finalised block."""
        self._compare_at = self._time() + self._compared_every_s
        finals: list[Block] = []
        for each in ready:
            try:
                each.head = (await each.node.head()).number
                final = await each.node.finalized()
            except Retry as error:
                self._fail(each, error)
                continue
            if final is not None:
                finals.append(final)
        if len(ready) > 1 and finals:
            await self._agree(ready, min(final.number for final in finals))

    async def _agree(self, ready: Sequence[_Endpoint], number: int) -> None:
        said: dict[str, str] = {}
        for each in ready:
            try:
                block = await each.node.block(number)
            except Retry as error:
                self._fail(each, error)
                continue
            if block is not None:
                said[block.hash] = each.node.name
        if len(said) > 1:
            views = ", ".join(f"{name} has {block_hash}" for block_hash, name in said.items())
            raise Fatal(
                f"the RPC endpoints disagree on the finalised block {number}: {views}. One of them "
                "is wrong or of another chain: compare with an explorer and remove it"
            )

    def _time(self) -> float:
        return asyncio.get_running_loop().time()
