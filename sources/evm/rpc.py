"""One RPC endpoint of a chain: its calls by name, typed answers, and what it says of contracts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec
import structlog

from sources.evm import wire
from sources.evm.calls import CALL_GAS, LATEST
from sources.evm.http_rpc import HttpTransport
from sources.evm.ports import CallRefused, LogFilter, RateLimited, Unreachable
from sources.evm.ranges import RangeLength
from sources.evm.socket_rpc import SocketTransport
from sources.evm.types import Block, ChainIdentity, EvmLog

Outcome = Literal["ok", "refused", "limited", "failed"]
Report = Callable[[str, Outcome], None]
"""Counts a call by its method."""

_TRIES: Final = 6
_CALL_TRIES: Final = 3
_IDENTITY: Final = "0x0000000000000000000000000000000000000004"
"""The precompiled contract of every EVM chain that answers with its input."""
_SILENT_S: Final = 30.0


log = structlog.get_logger(__name__)


class Transport(Protocol):
    """Carries calls to one endpoint. `announces` says whether `news` may come before its time.

    `session` is another number once a connection was cut.
    """

    name: str
    announces: bool
    session: int

    @property
    def silent_s(self) -> float:
        """Seconds since the newest announcement, 0 where there are none."""
        ...

    async def request(self, method: str, params: list[Any]) -> msgspec.Raw:
        """Return the result of a call. Raises Unreachable, RateLimited or Refused."""
        ...

    async def news(self, timeout_s: float) -> None:
        """Return when the node announces something, or after `timeout_s` seconds."""
        ...

    def reconnect(self) -> None:
        """Begin a new connection with the next call."""
        ...

    async def close(self) -> None:
        """Give up all connections."""
        ...


def transport(url: str, number: int, *, timeout_s: float = 20.0) -> Transport:
    """Return the transport for a URL of ws, wss, http or https; `number` is its place in the list.

    Nothing connects before the first call.
    """
    name = wire.endpoint_name(url, number)
    if url.startswith(("ws:", "wss:")):
        return SocketTransport(url, name, timeout_s=timeout_s)
    return HttpTransport(url, name, timeout_s=timeout_s)


class RpcNode:
    """A `Node` that also answers for contracts (`ContractCalls`, `LogFinder`)."""

    def __init__(self, carrier: Transport, report: Report | None = None) -> None:
        self.name = carrier.name
        self.carrier = carrier
        self._report_call = report
        self._seen = -1
        self._session = carrier.session

    @property
    def checked(self) -> bool:
        """Whether the node is the one that `chain` was asked of."""
        return self._session == self.carrier.session

    async def chain(self) -> ChainIdentity:
        """Return which chain the node is of. After a cut it must be asked before anything else."""
        session = self.carrier.session
        chain_id = await self._call("eth_chainId", [], str)
        genesis = await self._call("eth_getBlockByNumber", ["0x0", False], wire.Header | None)
        self._session = session
        return ChainIdentity(int(chain_id, 16), None if genesis is None else genesis.hash)

    async def head(self) -> Block:
        """See `Node`. A subscription that missed a new head for 30 s is made again."""
        header: wire.Header | None = await self._ask(
            "eth_getBlockByNumber", [LATEST, False], wire.Header | None
        )
        if header is None:
            raise Unreachable(f"{self.name}: has no block yet")
        block = header.block()
        if self._seen >= 0 and block.number > self._seen and self.carrier.silent_s > _SILENT_S:
            self.carrier.reconnect()
        self._seen = block.number
        return block

    async def finalized(self) -> Block | None:
        """See `Node`."""
        try:
            header = await self._ask(
                "eth_getBlockByNumber", ["finalized", False], wire.Header | None
            )
        except CallRefused:
            return None
        return None if header is None else header.block()

    async def block(self, number: int) -> Block | None:
        """See `Node`."""
        header = await self._ask("eth_getBlockByNumber", [hex(number), False], wire.Header | None)
        if header is not None and int(header.number, 16) != number:
            raise Unreachable(f"{self.name}: answered block {header.number} for {hex(number)}")
        return None if header is None else header.block()

    async def block_with_senders(self, block_hash: str) -> Block | None:
        """See `Node`."""
        found = await self._ask("eth_getBlockByHash", [block_hash, True], wire.FullBlock | None)
        return None if found is None else found.block()

    async def logs_of(self, block_hash: str, wanted: LogFilter) -> list[EvmLog]:
        """See `Node`."""
        query = {"blockHash": block_hash, **_filter(wanted)}
        logs: list[EvmLog] = await self._ask("eth_getLogs", [query], list[EvmLog])
        return logs

    async def logs_in(self, first: int, last: int, wanted: LogFilter) -> list[EvmLog]:
        """See `Node`."""
        query = {"fromBlock": hex(first), "toBlock": hex(last), **_filter(wanted)}
        logs: list[EvmLog] = await self._ask("eth_getLogs", [query], list[EvmLog])
        return logs

    async def call(self, to: str, data: str, block: str) -> str | None:
        """See `ContractCalls`.

        Nodes have many words for a contract that fails, and a hostile contract chooses among them.
        So a failure in unknown words counts as the contract's if it happens each time, while the
        node answers a call that cannot fail at the same block.
        """
        at: object = block if block == LATEST else {"blockHash": block}
        request = {"to": to, "data": data, "gas": hex(CALL_GAS)}
        for left in reversed(range(_CALL_TRIES)):
            try:
                answer: str = await self._ask("eth_call", [request, at], str)
            except wire.RpcError as error:
                if error.is_of_the_contract:
                    return None
                # Raises where the node has no such block or state, or no time.
                await self._ask("eth_call", [{"to": _IDENTITY, "data": "0x"}, at], str)
                if left:
                    continue
                log.info("source_call_failed", node=self.name, contract=to, error=str(error))
                return None
            return answer
        raise AssertionError("unreachable")

    async def find(self, address: str, topics: Sequence[str]) -> EvmLog | None:
        """See `LogFinder`. All blocks together, else from the newest back in ranges."""
        wanted = {"address": address, "topics": list(topics)}
        last = (await self.head()).number
        length = RangeLength(longest=last + 1, begin=last + 1)
        while last >= 0:
            first = max(0, last - length.blocks + 1)
            query = {"fromBlock": hex(first), "toBlock": hex(last), **wanted}
            try:
                found: list[EvmLog] = await self._ask("eth_getLogs", [query], list[EvmLog])
            except CallRefused:
                if first == last:
                    raise
                length.refused(last - first + 1)
                continue
            if found:
                return found[0]
            length.answered(last - first + 1, 0)
            last = first - 1
        return None

    async def _ask(self, method: str, params: list[Any], kind: Any) -> Any:
        """Call a node that is known to be of the chain."""
        if not self.checked:
            raise Unreachable(f"{self.name}: the connection was cut")
        return await self._call(method, params, kind)

    async def _call(self, method: str, params: list[Any], kind: Any) -> Any:
        """Call; where the node wants fewer calls, pause and call again a few times."""
        for attempt in range(1, _TRIES + 1):
            try:
                raw = await self.carrier.request(method, params)
            except RateLimited as error:
                self._report(method, "limited")
                if attempt == _TRIES:
                    raise
                await asyncio.sleep(error.pause_s * attempt)
            except CallRefused:
                self._report(method, "refused")
                raise
            except Unreachable:
                self._report(method, "failed")
                raise
            else:
                self._report(method, "ok")
                return wire.decoded(self.name, method, raw, kind)
        raise AssertionError("unreachable")

    def _report(self, method: str, outcome: Outcome) -> None:
        if self._report_call is not None:
            self._report_call(method, outcome)


def _filter(wanted: LogFilter) -> dict[str, Any]:
    found: dict[str, Any] = {"topics": [list(wanted.topics)]}
    if wanted.addresses:
        found["address"] = list(wanted.addresses)
    return found
