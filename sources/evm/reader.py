"""Makes the events of a block from its logs: decodes, proves the pools, asks for metadata, prices.

All calls are made before anything is priced or counted, so a call that fails leaves no trace and
the block is read again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Final, Literal, NamedTuple, Protocol

from aggregator.runtime.errors import Retry
from sources.events import Outgoing, encode
from sources.evm.calls import LATEST, ContractCalls, LogFinder
from sources.evm.logs import SwapLog, decode, initialized
from sources.evm.metadata import Metadata
from sources.evm.pools import Pools, ProvenPool, emitter_of
from sources.evm.ports import LogFilter
from sources.evm.swaps import QuoteOrder, Trader, fits, legs, moves_both_ways, trader_of
from sources.evm.types import NATIVE, Block, EvmLog, PoolSwap
from sources.evm.venues import PoolFactory, topics_of

Dropped = Literal["not_a_swap", "unknown_factory", "no_metadata", "undecodable", "too_large"]
"""Why a log gave no event.

- `not_a_swap`: the pool did not give one token for another.
- `unknown_factory`: no configured factory names the emitter.
- `no_metadata`: a token does not say its decimals, so there are no amounts.
- `undecodable`: a log with the topic of a swap has another layout.
- `too_large`: an amount is beyond what an event may have, which only worthless tokens reach.
"""

_ADDRESS_LENGTH: Final = 42
CURVE_NATIVE: Final = "0xeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
"""The address that stands for a chain's native coin in Curve's pools."""


class Value(Protocol):
    """What a pricer says of a swap: USD or None, and why there is none."""

    @property
    def usd(self) -> Decimal | None: ...
    @property
    def reason(self) -> str: ...


class Pricing(Protocol):
    """Prices swaps in the order of the chain; times are block times in seconds since the epoch."""

    def price(self, swap: PoolSwap, timestamp_s: int) -> Value:
        """Return the value of a swap, and learn from it."""
        ...

    def observe(self, swap: PoolSwap, timestamp_s: int) -> None:
        """Learn from a swap whose event was sent before."""
        ...


class Tally(Protocol):
    """Counts what gives no event, and events without USD."""

    def dropped(self, reason: Dropped, count: int = 1) -> None:
        """Count logs that gave no event."""
        ...

    def unpriced(self, reason: str, count: int = 1) -> None:
        """Count events without USD."""
        ...


class PoolSelection(NamedTuple):
    """The pools whose swaps become events; all where `pools` is empty.

    `references`, the pools that price tokens, are read in any case.
    """

    pools: frozenset[str] = frozenset()
    references: frozenset[str] = frozenset()

    def reads(self, pool: str) -> bool:
        """Return whether the swaps of a pool are needed."""
        return not self.pools or pool in self.pools or pool in self.references

    def sends(self, pool: str) -> bool:
        """Return whether the swaps of a pool become events."""
        return not self.pools or pool in self.pools


class _Found(NamedTuple):
    """Swaps with their blocks in log order, and how many logs gave none and why."""

    swaps: list[tuple[Block, PoolSwap]]
    dropped: Counter[Dropped]


class SwapReader:
    """The reader of one chain's blocks, in the order of the chain.

    `wrapped_native` is the token that the native coin counts as (docs/decisions/039): a swap of ETH
    is one of WETH, as on venues that trade only WETH.
    """

    def __init__(
        self,
        chain: str,
        factories: Sequence[PoolFactory],
        *,
        wrapped_native: str,
        order: QuoteOrder,
        pricer: Pricing,
        calls: ContractCalls,
        tally: Tally,
        trader: Trader = "tx_from",
        selection: PoolSelection = PoolSelection(),  # noqa: B008 - immutable
        finder: LogFinder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wanted = LogFilter(topics_of(factories))
        self._factories = factories
        self._chain = chain
        self._native = wrapped_native
        self._order = order
        self._pricer = pricer
        self._tally = tally
        self._trader: Trader = trader
        self._selection = selection
        self._pools = Pools(factories, calls, finder, clock)
        self._metadata = Metadata(calls, clock)

    @property
    def references(self) -> LogFilter | None:
        """The logs of the reference pools; of every pool in a contract that holds one of them."""
        pools = self._selection.references
        holders = {f.address for f in self._factories if f.kind in {"v4", "balancer-v2"}}
        ids = any(len(pool) > _ADDRESS_LENGTH for pool in pools)
        addresses = {pool for pool in pools if len(pool) == _ADDRESS_LENGTH}
        addresses |= holders if ids else set()
        return LogFilter(self.wanted.topics, tuple(sorted(addresses))) if addresses else None

    async def read(self, block: Block, logs: Sequence[EvmLog]) -> list[Outgoing]:
        """Return the events of a block in the order of its logs, leg 0 before leg 1.

        `logs` are the block's logs with the topics of `wanted`. Calls are made at the state of the
        block. Raises Retry where a call was not answered or the logs are not those of the block.
        """
        return self._events(await self._swaps([(block, logs)], block.hash))

    async def read_final(self, blocks: Sequence[tuple[Block, Sequence[EvmLog]]]) -> list[Outgoing]:
        """Return the events of final blocks, given in order, as `read` does of each.

        All of them together cost three rounds of calls, and if one fails all are read again. Calls
        are made at the newest state: nodes forget old ones, and facts about the pools of a final
        block do not change.
        """
        return self._events(await self._swaps(blocks, LATEST))

    async def observe(self, blocks: Sequence[tuple[Block, Sequence[EvmLog]]]) -> None:
        """Take the reference prices of blocks, given in order, whose events are not wanted."""
        found = await self._swaps(blocks, LATEST)
        for block, swap in found.swaps:
            self._pricer.observe(swap, block.timestamp)

    def _events(self, found: _Found) -> list[Outgoing]:
        for reason, count in found.dropped.items():
            self._tally.dropped(reason, count)
        sent: list[Outgoing] = []
        for block, swap in found.swaps:
            value = self._pricer.price(swap, block.timestamp)
            if not self._selection.sends(swap.pool):
                continue
            if value.usd is None:
                self._tally.unpriced(value.reason, 2)
            trader = trader_of(swap, block, self._trader)
            events = legs(swap, block, self._chain, self._order, usd=value.usd, trader=trader)
            sent += map(encode, events)
        return sent

    async def _swaps(self, blocks: Sequence[tuple[Block, Sequence[EvmLog]]], at: str) -> _Found:
        """Return the swaps of proven pools in log order; make all calls, at the state of `at`."""
        result = _Found([], Counter())
        dropped = result.dropped
        found = [
            (block, swap) for block, logs in blocks for swap in self._decoded(block, logs, dropped)
        ]
        pools = await self._pools.proven((swap for _, swap in found), at)
        placed: list[tuple[Block, SwapLog, str, str, str]] = []
        for block, swap in found:
            pool = pools[emitter_of(swap)]
            coins = None if pool is None else self._coins(swap, pool)
            if pool is None or coins is None:
                dropped["unknown_factory"] += 1
            elif coins[0] == coins[1]:
                dropped["not_a_swap"] += 1  # The native coin for its wrapping.
            else:
                placed.append((block, swap, pool.venue, *coins))
        tokens = await self._metadata.of((coin for each in placed for coin in each[3:]), at)
        for block, swap, venue, coin0, coin1 in placed:
            one = PoolSwap(
                venue,
                swap.pool,
                tokens[coin0],
                tokens[coin1],
                swap.amount0,
                swap.amount1,
                swap.tx_hash,
                swap.log_index,
                swap.recipient,
            )
            if one.token0.decimals is None or one.token1.decimals is None:
                dropped["no_metadata"] += 1
            elif not fits(one):
                dropped["too_large"] += 1
            else:
                result.swaps.append((block, one))
        return result

    def _decoded(
        self, block: Block, logs: Iterable[EvmLog], dropped: Counter[Dropped]
    ) -> list[SwapLog]:
        found: list[SwapLog] = []
        for log in logs:
            if log.block_hash != block.hash:
                raise Retry(
                    f"a log of block {log.block_hash} is among those of block {block.number} "
                    f"{block.hash}: the node's answers are of two chains"
                )
            swap = decode(log)
            if swap is None:
                new = initialized(log)
                if new is None:
                    dropped["undecodable"] += 1
                else:
                    self._pools.learn(new)
            elif self._selection.reads(swap.pool):
                self._check_sender(block, swap)
                if moves_both_ways(swap.amount0, swap.amount1):
                    found.append(swap)
                else:
                    dropped["not_a_swap"] += 1
        found.sort(key=lambda each: each.log_index)
        return found

    def _check_sender(self, block: Block, swap: SwapLog) -> None:
        if self._trader == "tx_from" and block.senders and swap.tx_hash not in block.senders:
            raise Retry(
                f"block {block.number} {block.hash} came without transaction {swap.tx_hash}, "
                "which one of its logs names"
            )

    def _coins(self, swap: SwapLog, pool: ProvenPool) -> tuple[str, str] | None:
        """Return the tokens of a swap, None where the pool does not have an index of its log."""
        coin0 = pool.coin(swap.layout, swap.coin0)
        coin1 = pool.coin(swap.layout, swap.coin1)
        if coin0 is None or coin1 is None:
            return None
        return self._wrapped(coin0), self._wrapped(coin1)

    def _wrapped(self, coin: str) -> str:
        return self._native if coin in {NATIVE, CURVE_NATIVE} else coin
