"""Which emitters of swap logs are pools: those that a configured factory names.

Any contract can emit a log that looks like a swap of any size. So an emitter counts only if a
factory of the configuration answers with its address for the tokens that the emitter claims, or if
it is itself a configured contract that holds many pools. Tokens of a pool never change, so each
emitter is asked once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from sources.evm.calls import ContractCalls, LogFinder, address_of, argument, words
from sources.evm.logs import Initialized, SwapLog, address_in, initialized
from sources.evm.once import AskedOnce
from sources.evm.types import NATIVE
from sources.evm.venues import EMITS, V4_INITIALIZE, Kind, Layout, PoolFactory

# The first four bytes of Keccak-256 of each signature.
_FACTORY: Final = "0xc45a0155"  # factory()
_TOKEN0: Final = "0x0dfe1681"
_TOKEN1: Final = "0xd21220a7"
_FEE: Final = "0xddca3f43"  # fee()
_TICK_SPACING: Final = "0xd0c93a7c"  # tickSpacing()
_STABLE: Final = "0x22be3de1"  # stable()
_COINS: Final = ("0xc6610657", "0x23746eb8")  # coins(uint256), coins(int128)
# underlying_coins(uint256), underlying_coins(int128)
_UNDERLYING_COINS: Final = ("0xb9947eb0", "0xb739953e")
_BASE_COINS: Final = ("0x87cb4f57",)  # base_coins(uint256), without the metapool's own coin
_GET_COINS: Final = "0x9ac90d3d"  # get_coins(address)
_GET_UNDERLYING_COINS: Final = "0xa77576ef"  # get_underlying_coins(address)
_IS_BPOOL: Final = "0xc2bb6dc2"  # isBPool(address)
_POOL_KEYS: Final = "0x86b6be7d"  # poolKeys(bytes25)

_MOST_CURVE_COINS: Final = 8


class _Pairs(NamedTuple):
    """How a kind of factory looks a pair's pool up.

    `key` is the question to the pool for the last argument of `lookups`, of which one answers.
    """

    lookups: tuple[str, ...]
    key: str | None = None


_PAIRS: Final[dict[Kind, _Pairs]] = {
    "v2": _Pairs(("0xe6a43905",)),  # getPair(address,address)
    # getPool(address,address,bool), getPair(address,address,bool)
    "solidly": _Pairs(("0x79bc57d5", "0x6801cc30"), _STABLE),
    "v3": _Pairs(("0x1698ee82",), _FEE),  # getPool(address,address,uint24)
    "pancake-v3": _Pairs(("0x1698ee82",), _FEE),
    "slipstream": _Pairs(("0x28af8d0b",), _TICK_SPACING),  # getPool(address,address,int24)
    "algebra": _Pairs(("0xd9a641e1",)),  # poolByPair(address,address)
}


class ProvenPool(NamedTuple):
    """A pool that its factory has named.

    `coins` are its tokens in the order of the indexes in its logs, `underlying` those of the logs
    about underlying coins. Both are empty where the logs themselves have the tokens.
    """

    venue: str
    coins: tuple[str, ...] = ()
    underlying: tuple[str, ...] = ()

    def coin(self, layout: Layout, which: int | str) -> str | None:
        """Return the address of a coin of a log; None where the pool does not have the index."""
        if isinstance(which, str):
            return which
        coins = self.underlying if layout == "curve-underlying" else self.coins
        return coins[which] if which < len(coins) else None


class Emitter(NamedTuple):
    """What a proof is about: a contract, the pool in it, and the layout of its log."""

    layout: Layout
    address: str
    pool: str


def emitter_of(swap: SwapLog) -> Emitter:
    """Return the emitter of a swap's log."""
    return Emitter(swap.layout, swap.emitter, swap.pool)


class Pools:
    """The proven pools of the configured factories. `clock` is in seconds and never jumps.

    Without `finder` a pool of Uniswap v4 is known from its Initialize log, if that passed here, or
    from the PositionManager, which knows pools in which it has minted a position.
    """

    def __init__(
        self,
        factories: Sequence[PoolFactory],
        calls: ContractCalls,
        finder: LogFinder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._factories = factories
        self._calls = calls
        self._finder = finder
        self._proven: AskedOnce[Emitter, ProvenPool] = AskedOnce(self._prove, clock)

    def learn(self, new: Initialized) -> None:
        """Keep a new pool of Uniswap v4, if a configured PoolManager reported it."""
        for factory in self._of_kinds("v4"):
            if factory.address == new.manager:
                emitter = Emitter("v4", new.manager, new.pool)
                self._proven.learn(emitter, ProvenPool(factory.venue, new.coins))

    async def proven(
        self, swaps: Iterable[SwapLog], block: str
    ) -> dict[Emitter, ProvenPool | None]:
        """Return the pool of each swap's emitter, None where no factory names it.

        Costs two rounds of concurrent calls, however many emitters are new. Raises Retry where a
        call was not answered: then nothing is known about that emitter, and it is asked again.
        """
        return await self._proven.answers(map(emitter_of, swaps), block)

    async def _prove(self, emitter: Emitter, block: str) -> ProvenPool | None:
        """Ask the factories of all kinds whose pools emit this layout."""
        factories = [each for each in self._factories if emitter.layout in EMITS[each.kind]]
        if emitter.layout == "v4":
            return await self._prove_v4(emitter, factories, block)
        if emitter.layout == "balancer-v2":
            # The Vault emits a swap only for a registered pool and its registered tokens.
            venue = next((f.venue for f in factories if f.address == emitter.address), None)
            return None if venue is None else ProvenPool(venue)
        if emitter.layout == "balancer-v1":
            return await self._prove_bpool(emitter, factories, block)
        if emitter.layout.startswith("curve"):
            return await self._prove_curve(emitter, factories, block)
        return await self._prove_pair(emitter, factories, block)

    def _of_kinds(self, *kinds: Kind) -> list[PoolFactory]:
        return [factory for factory in self._factories if factory.kind in kinds]

    async def _call(self, to: str, data: str, block: str) -> str | None:
        return await self._calls.call(to, data, block)

    async def _prove_pair(
        self, emitter: Emitter, factories: Sequence[PoolFactory], block: str
    ) -> ProvenPool | None:
        """Ask the emitter for its tokens and its key, and its factory for the pool of these."""
        questions = [_FACTORY, _TOKEN0, _TOKEN1]
        questions += sorted({key for f in factories if (key := _PAIRS[f.kind].key) is not None})
        answers = await asyncio.gather(
            *(self._call(emitter.address, question, block) for question in questions)
        )
        facts = dict(zip(questions, answers, strict=True))
        coins = address_of(facts[_TOKEN0]), address_of(facts[_TOKEN1])
        if coins[0] is None or coins[1] is None:
            return None
        claimed = address_of(facts[_FACTORY])
        asked = [
            (factory, lookup)
            for factory in factories
            # A pool without factory() may be of any of them.
            if claimed is None or factory.address == claimed
            for lookup in _lookups(_PAIRS[factory.kind], (coins[0], coins[1]), facts)
        ]
        named = await asyncio.gather(
            *(self._call(factory.address, lookup, block) for factory, lookup in asked)
        )
        for (factory, _), answer in zip(asked, named, strict=True):
            if address_of(answer) == emitter.address:
                return ProvenPool(factory.venue, (coins[0], coins[1]))
        return None

    async def _prove_v4(
        self, emitter: Emitter, factories: Sequence[PoolFactory], block: str
    ) -> ProvenPool | None:
        """Ask the PositionManager for the pool's key, then search the pool's Initialize log."""
        factory = next((f for f in factories if f.address == emitter.address), None)
        if factory is None:
            return None
        if factory.positions is not None:
            # bytes25 is on the left of its word.
            key = _POOL_KEYS + emitter.pool[2:52].ljust(64, "0")
            answer = words(await self._call(factory.positions, key, block))
            # currency0, currency1, fee, tickSpacing, hooks; no pool has a tick spacing of 0.
            if len(answer) == 5 and int(answer[3], 16) != 0:
                coins = address_in(answer[0]), address_in(answer[1])
                if coins[0] is not None and coins[1] is not None:
                    return ProvenPool(factory.venue, (coins[0], coins[1]))
        if self._finder is None:
            return None
        log = await self._finder.find(factory.address, (V4_INITIALIZE, emitter.pool))
        new = None if log is None else initialized(log)
        if new is None or (new.manager, new.pool) != (factory.address, emitter.pool):
            return None
        return ProvenPool(factory.venue, new.coins)

    async def _prove_bpool(
        self, emitter: Emitter, factories: Sequence[PoolFactory], block: str
    ) -> ProvenPool | None:
        data = _IS_BPOOL + argument(emitter.address)
        answers = await asyncio.gather(*(self._call(f.address, data, block) for f in factories))
        for factory, answer in zip(factories, answers, strict=True):
            if [int(word, 16) for word in words(answer)] == [1]:
                return ProvenPool(factory.venue)
        return None

    async def _prove_curve(
        self, emitter: Emitter, factories: Sequence[PoolFactory], block: str
    ) -> ProvenPool | None:
        """Take the coins from a registry that knows the pool, or from a pool that is configured."""
        registries = [factory for factory in factories if factory.address]
        argued = argument(emitter.address)
        answers = await asyncio.gather(
            *(
                self._call(registry.address, question + argued, block)
                for registry in registries
                for question in (_GET_COINS, _GET_UNDERLYING_COINS)
            )
        )
        for at, registry in enumerate(registries):
            coins = _array(answers[2 * at])
            if len(coins) > 1:
                return ProvenPool(registry.venue, coins, _array(answers[2 * at + 1]))
        for factory in factories:
            if emitter.address in factory.pools:
                return await self._configured_curve(factory.venue, emitter.address, block)
        return None

    async def _configured_curve(self, venue: str, pool: str, block: str) -> ProvenPool | None:
        coins, underlying, base = await asyncio.gather(
            self._listed(pool, _COINS, block),
            self._listed(pool, _UNDERLYING_COINS, block),
            self._listed(pool, _BASE_COINS, block),
        )
        if len(coins) < 2:
            return None
        # A metapool trades its first coin against the coins of its base pool.
        return ProvenPool(venue, coins, underlying or ((coins[0], *base) if base else ()))

    async def _listed(self, pool: str, getters: Sequence[str], block: str) -> tuple[str, ...]:
        """Return what the first getter that answers has at the indexes from 0 on."""
        answers = await asyncio.gather(
            *(
                self._call(pool, getter + argument(at), block)
                for getter in getters
                for at in range(_MOST_CURVE_COINS)
            )
        )
        for begin in range(0, len(answers), _MOST_CURVE_COINS):
            coins = _before_a_gap(answers[begin : begin + _MOST_CURVE_COINS])
            if coins:
                return coins
        return ()


def _lookups(pairs: _Pairs, coins: tuple[str, str], facts: dict[str, str | None]) -> Iterable[str]:
    """Return the questions to a factory for the pool of these tokens; none without the key."""
    arguments = argument(coins[0]) + argument(coins[1])
    if pairs.key is not None:
        key = words(facts[pairs.key])
        if len(key) != 1:
            return
        arguments += argument(key[0])
    for lookup in pairs.lookups:
        yield lookup + arguments


def _array(answer: str | None) -> tuple[str, ...]:
    """Return the addresses of an array: of fixed length, or of a dynamic one (offset, length)."""
    found = words(answer)
    if len(found) > 1 and int(found[0], 16) == 32:
        found = found[2 : 2 + min(int(found[1], 16), _MOST_CURVE_COINS)]
    return _before_a_gap(found)


def _before_a_gap(answers: Sequence[str | None]) -> tuple[str, ...]:
    """Return the addresses before the first answer that is none."""
    coins = []
    for answer in answers:
        coin = address_of(answer)
        if coin is None or coin == NATIVE:
            break
        coins.append(coin)
    return tuple(coins)
