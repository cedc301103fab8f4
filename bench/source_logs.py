"""CPU time from a node's answer to the events of its swaps: parse, decode, price, encode.

The logs are swaps of Uniswap v2, v3 and v4 between WETH, USDC and other tokens, in an answer of
`eth_getLogs`. Pools and tokens are known, as they are after their first swap. No node and no Kafka
take part. The best round counts, so that other load on the machine matters less.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from sources.evm.calls import argument
from sources.evm.logs import decode
from sources.evm.reader import Dropped, SwapReader
from sources.evm.types import Block, EvmLog
from sources.evm.venues import TOPICS, PoolFactory
from sources.pricing.pricer import Pricer
from sources.pricing.trusted import Trusted

LOGS: Final = 20_000
PER_BLOCK: Final = 100
POOLS: Final = 200

WETH: Final = "0x" + "ee" * 20
USDC: Final = "0x" + "dd" * 20
FACTORIES: Final = (
    PoolFactory("uniswap-v2", "v2", "0x" + "f2" * 20),
    PoolFactory("uniswap-v3", "v3", "0x" + "f3" * 20),
    PoolFactory("uniswap-v4", "v4", "0x" + "f4" * 20, positions="0x" + "f5" * 20),
)


class KnownContracts:
    """The factories, pools and tokens of the benchmark; implements ContractCalls.

    Pool n is of factory n mod 3. The first pool of each factory is of WETH and USDC, every other
    one of a token of its own and one of these two.
    """

    def __init__(self) -> None:
        self.pools = [f"0x{0x9A << 152 | at:040x}" for at in range(POOLS)]
        self._answers: dict[tuple[str, str], str] = {}
        for at, pool in enumerate(self.pools):
            factory, coins = FACTORIES[at % 3].address, self.tokens(at)
            facts = {"0xc45a0155": factory, "0x0dfe1681": coins[0], "0xd21220a7": coins[1]}
            for question, fact in facts.items():
                self._answers[pool, question] = argument(fact)
            self._answers[pool, "0xddca3f43"] = argument(500)
            named = argument(coins[0]) + argument(coins[1])
            self._answers[factory, "0xe6a43905" + named] = argument(pool)
            self._answers[factory, "0x1698ee82" + named + argument(500)] = argument(pool)
            key = (
                argument(coins[0]) + argument(coins[1]) + argument(500) + argument(10) + argument(0)
            )
            self._answers["0x" + "f5" * 20, "0x86b6be7d" + pool_id(pool)[2:52].ljust(64, "0")] = key
            for coin in coins:
                self._answers[coin, "0x313ce567"] = argument(6 if coin == USDC else 18)
                symbol = argument(32) + argument(3) + b"TKN".hex().ljust(64, "0")
                self._answers[coin, "0x95d89b41"] = symbol

    def tokens(self, at: int) -> tuple[str, str]:
        """Return the tokens of pool `at`."""
        return (WETH, USDC) if at < 3 else (f"0x{0x70 << 152 | at:040x}", WETH if at % 2 else USDC)

    async def call(self, to: str, data: str, block: str) -> str | None:
        """Answer as the contracts do at any block."""
        del block
        answer = self._answers.get((to, data))
        return None if answer is None else "0x" + answer


class Ignored:
    """Counts nothing; implements Tally."""

    def __init__(self) -> None:
        self.drops: dict[Dropped, int] = {}

    def dropped(self, reason: Dropped, count: int = 1) -> None:
        """Keep the count, for the check that nothing was dropped."""
        self.drops[reason] = self.drops.get(reason, 0) + count

    def unpriced(self, reason: str, count: int = 1) -> None:
        """Ignore it."""


def best(work: Callable[[], object], rounds: int) -> float:
    """Return the CPU seconds of the best round."""
    seconds = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        work()
        seconds = min(seconds, time.process_time() - begun)
    return seconds


def measure(rounds: int) -> dict[str, Any]:
    """Return logs per CPU second of parsing, of decoding, and of the whole way to events."""
    contracts, tally = KnownContracts(), Ignored()
    answers = [answer(contracts, block) for block in range(LOGS // PER_BLOCK)]
    parse = msgspec.json.Decoder(list[EvmLog]).decode
    parsed = [parse(each) for each in answers]
    references = frozenset({*contracts.pools[:2], pool_id(contracts.pools[2])})
    trusted = Trusted(frozenset({USDC}), frozenset({WETH}), frozenset(), references)
    reader = SwapReader(
        "ethereum",
        FACTORIES,
        wrapped_native=WETH,
        order=trusted,
        pricer=Pricer(trusted),
        calls=contracts,
        tally=tally,
    )

    async def read() -> int:
        events = 0
        for at, raw in enumerate(answers):
            logs = parse(raw)
            events += len(await reader.read(block_of(at), logs))
        return events

    events = asyncio.run(read())  # Asks for the pools and tokens, once.
    if tally.drops or events != 2 * LOGS:
        raise SystemExit(f"{events} events of {LOGS} swaps, dropped {tally.drops}")
    parse_s = best(lambda: [parse(each) for each in answers], rounds)
    decode_s = best(lambda: [decode(log) for logs in parsed for log in logs], rounds)
    events_s = best(lambda: asyncio.run(read()), rounds)
    return {
        "parsed_per_s": round(LOGS / parse_s),
        "decoded_per_s": round(LOGS / decode_s),
        "to_events_per_s": round(LOGS / events_s),
        "us_per_log_to_events": round(events_s / LOGS * 1e6, 1),
        "bytes_per_log": round(sum(map(len, answers)) / LOGS),
        "logs": LOGS,
    }


def block_of(at: int) -> Block:
    """Return a block, 12 s after the one before."""
    return Block(at, f"0x{at + 1:064x}", f"0x{at:064x}", 1_700_000_000 + 12 * at)


def answer(contracts: KnownContracts, at: int, swaps: int = PER_BLOCK) -> bytes:
    """Return a block's logs as a node sends them."""
    draw = random.Random(at)
    logs = []
    for index in range(swaps):
        pool = draw.randrange(POOLS)
        usd = draw.randrange(10, 10_000)
        coins = contracts.tokens(pool)
        paid = usd * 10**6 if coins[1] == USDC else usd * 10**18 // 3_000
        got = usd * 10**18 // 3_000 if coins[0] == WETH else usd * 10**15
        logs.append(_log(contracts.pools[pool], pool, got, paid, at, index))
    return json.dumps(logs).encode()


def _log(pool: str, number: int, got: int, paid: int, block: int, index: int) -> dict[str, Any]:
    """Return the log of a swap in which the pool gives `got` of token 0 for `paid` of token 1."""
    layout, who = ("v2", "v3", "v4")[number % 3], "0x" + argument("0x" + "c0" * 20)
    topics, address = [TOPICS[layout], who, who], pool  # type: ignore[index]
    if layout == "v2":
        words = [0, paid, got, 0]
    elif layout == "v3":
        words = [2**256 - got, paid, 2**96, 10**18, 0]
    else:
        topics, address = [TOPICS["v4"], pool_id(pool), who], FACTORIES[2].address
        words = [got, 2**256 - paid, 2**96, 10**18, 0, 500]
    return _raw(address, topics, words, block, index)


def pool_id(pool: str) -> str:
    """Return the id in the PoolManager of a pool; most pools have no use for one."""
    return pool.ljust(66, "0")


def _raw(
    address: str, topics: list[str], words: list[int], block: int, index: int
) -> dict[str, Any]:
    return {
        "address": address,
        "topics": topics,
        "data": "0x" + "".join(argument(word) for word in words),
        "blockNumber": hex(block),
        "blockHash": f"0x{block + 1:064x}",
        "transactionHash": f"0x{block << 32 | index:064x}",
        "transactionIndex": hex(index),
        "logIndex": hex(index),
        "removed": False,
    }
