"""Generates swaps that resemble a busy day: Zipf tokens, prices as random walks, a set of traders.

The seed determines everything but the event times, which come from an iterator. Fast, because JSON
is made from templates and random hashes are drawn in blocks. Knows nothing of Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from math import exp
from random import Random
from typing import Final

from aggregator.feed.stream import Record, token_key

CHAINS: Final = ("ethereum", "bsc", "base", "arbitrum", "polygon", "optimism")
VENUES: Final = ("uniswap_v3", "uniswap_v2", "pancakeswap_v3", "aerodrome", "curve")
QUOTES: Final = ("USDC", "WETH", "USDT", "DAI")

_BLOCK: Final = 4_096
_BLOCK_TIME_MS: Final = 12_000
_HASH_DIGITS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The parameters of the generator.

    The share of the token with rank r is proportional to 1 / r ** `zipf`; 0 is even.
    """

    tokens: int
    zipf: float = 1.1
    seed: int = 0
    traders: int = 20_000


class _Token:
    """One token: its key, the constant part of its JSON, and its current price in USD."""

    __slots__ = ("anchor", "head", "key", "price")

    def __init__(self, rank: int, rng: Random) -> None:
        chain = CHAINS[rank % len(CHAINS)]
        address, pool = _address(rng), _address(rng)
        self.key = token_key(chain, address)
        self.head = (
            f'{{"chain":"{chain}","token":"{address}","symbol":"TK{rank}"'
            f',"quote":"{rng.choice(QUOTES)}","pool":"{pool}","venue":"{rng.choice(VENUES)}"'
        )
        self.anchor = self.price = 10 ** rng.uniform(-4, 3)


def _address(rng: Random) -> str:
    return f"0x{rng.getrandbits(160):040x}"


def swaps(shape: Shape, times: Iterable[int]) -> Iterator[Record]:
    """Yield one swap for each event time (ms), each in a separate transaction.

    Every event is valid (DESIGN 3) and priced. The swaps end when `times` ends.
    """
    rng = Random(shape.seed)
    tokens = [_Token(rank, rng) for rank in range(shape.tokens)]
    traders = [_address(rng) for _ in range(shape.traders)]
    weights = list(accumulate((rank + 1) ** -shape.zipf for rank in range(shape.tokens)))
    times = iter(times)
    while True:
        # Draw a block before its times are read, so that the draws never depend on the times.
        picked = rng.choices(tokens, cum_weights=weights, k=_BLOCK)
        trading = rng.choices(traders, k=_BLOCK)
        hashes = rng.randbytes(_BLOCK * _HASH_DIGITS // 2).hex()
        block = zip(picked, trading, range(0, len(hashes), _HASH_DIGITS), strict=True)
        uniform, normal = rng.random, rng.gauss
        for token, trader, at in block:
            timestamp = next(times, None)
            if timestamp is None:
                return
            price = token.price
            # The pull towards the anchor bounds the price of an endless feed.
            price += price * 0.0007 * normal(0.0, 1.0) + (token.anchor - price) * 1e-5
            token.price = price
            usd = exp(5.5 + 1.6 * normal(0.0, 1.0))
            side = "buy" if uniform() < 0.52 else "sell"
            value = (
                f'{token.head},"side":"{side}","tx_hash":"0x{hashes[at : at + _HASH_DIGITS]}"'
                f',"log_index":{int(uniform() * 400)},"block_number":{timestamp // _BLOCK_TIME_MS}'
                f',"timestamp":{timestamp},"amount":"{usd / price:.12f}"'
                f',"amount_usd":"{usd:.6f}","trader":"{trader}"}}'
            )
            yield Record(token.key, value.encode(), timestamp)


def spread(events: int, end_ms: int, span_ms: int, jitter_ms: int, seed: int) -> Iterator[int]:
    """Yield event times that fill the `span_ms` before `end_ms` evenly, out of order by the jitter.

    No time is later than `end_ms`, because the jitter only moves times back.
    """
    rng = Random(f"{seed}:times")
    start = end_ms - span_ms
    for index in range(events):
        yield start + (index + 1) * span_ms // events - int(rng.random() * jitter_ms)


def present(events: int | None, now_ms: Callable[[], int]) -> Iterator[int]:
    """Yield the current time whenever a time is taken, `events` times; None is without end."""
    return islice(iter(now_ms, None), events)
