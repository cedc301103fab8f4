"""Swaps out of logs by fixed slices of their hex, without an ABI library.

The layout of each event is fixed, so a decoder is a few slices. A log is decoded only where topic0,
the number of topics and the length of data fit its layout: events that share a topic0 but index
other fields would otherwise yield wrong amounts. Nodes may write hex in any case; what comes out of
here is lower-case. Nothing here says that the emitter is a pool; any
contract can emit any log. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from aggregator.runtime.errors import Retry
from sources.evm.types import EvmLog
from sources.evm.venues import TOPICS, V4_INITIALIZE, Layout

_WORD: Final = 64
"""Hex digits of an ABI word of 32 bytes."""
_PADDING: Final = "0x000000000000000000000000"
"""What an address has before it in a topic."""
_INT128: Final = 1 << 127
_MOST_COINS: Final = 32


class SwapLog(NamedTuple):
    """A log with the layout of a swap; its pool is not proven yet.

    `amount0` and `amount1` are what the emitter received (positive) or gave (negative), in the
    smallest unit of `coin0` and `coin1`. A coin is its index in the pool, or its address where the
    log has it. `pool` is the emitter, or the pool's id where one contract holds many pools.
    """

    layout: Layout
    emitter: str
    pool: str
    coin0: int | str
    coin1: int | str
    amount0: int
    amount1: int
    recipient: str | None
    tx_hash: str
    log_index: int


class Initialized(NamedTuple):
    """The log in which a Uniswap v4 PoolManager names the tokens of a new pool."""

    manager: str
    pool: str
    coins: tuple[str, str]


def decode(log: EvmLog) -> SwapLog | None:
    """Return the swap that a log reports, or None where it does not have the layout of a swap.

    Raises Retry where the data is not hex: no chain holds such a log, so another answer of a node
    is needed.
    """
    topics = log.topics
    found = _DECODERS.get(topics[0].lower()) if topics else None
    if found is None:
        return None
    count, length, slices = found
    if len(topics) != count or len(log.data) != length:
        return None
    try:
        return slices(log)
    except ValueError as error:
        raise Retry(
            f"log {log.log_index} of {log.transaction_hash}: data or a number is not hex: {error}"
        ) from None


def initialized(log: EvmLog) -> Initialized | None:
    """Return the new pool that a log of Uniswap v4 reports, or None where it is another log."""
    topics = log.topics
    if len(topics) != 4 or topics[0].lower() != V4_INITIALIZE or len(log.data) != 2 + 5 * _WORD:
        return None
    coin0, coin1 = address_in(topics[2]), address_in(topics[3])
    if coin0 is None or coin1 is None:
        return None
    return Initialized(log.address.lower(), topics[1].lower(), (coin0, coin1))


def address_in(word: str) -> str | None:
    """Return the address in a `0x` word of 32 bytes, or None where the word holds no address."""
    if len(word) != 2 + _WORD or not word.startswith(_PADDING):
        return None
    return "0x" + word[26:].lower()


def _uint(data: str, word: int) -> int:
    begin = 2 + word * _WORD
    return int(data[begin : begin + _WORD], 16)


def _int(data: str, word: int) -> int:
    number = _uint(data, word)
    return number - (1 << 256) if number >> 255 else number


def _v2(log: EvmLog) -> SwapLog | None:
    # sender, to indexed; amount0In, amount1In, amount0Out, amount1Out. Solidly declares `to` as the
    # second parameter, which changes topic0 but not the topics, because both are indexed.
    data = log.data
    recipient = address_in(log.topics[2])
    if recipient is None:
        return None
    emitter = log.address.lower()
    return SwapLog(
        _LAYOUT_OF[log.topics[0].lower()],
        emitter,
        emitter,
        0,
        1,
        int(data[2:66], 16) - int(data[130:194], 16),
        int(data[66:130], 16) - int(data[194:258], 16),
        recipient,
        log.transaction_hash.lower(),
        int(log.log_index, 16),
    )


def _v3(log: EvmLog) -> SwapLog | None:
    # sender, recipient indexed; amount0, amount1 as the pool's changes; price and the rest unused.
    recipient = address_in(log.topics[2])
    if recipient is None:
        return None
    emitter = log.address.lower()
    return SwapLog(
        _LAYOUT_OF[log.topics[0].lower()],
        emitter,
        emitter,
        0,
        1,
        _int(log.data, 0),
        _int(log.data, 1),
        recipient,
        log.transaction_hash.lower(),
        int(log.log_index, 16),
    )


def _v4(log: EvmLog) -> SwapLog | None:
    # id, sender indexed; amount0, amount1 as changes of the caller: the pool's with other sign.
    amount0, amount1 = _int(log.data, 0), _int(log.data, 1)
    if not (-_INT128 <= amount0 < _INT128 and -_INT128 <= amount1 < _INT128):
        return None
    return SwapLog(
        "v4",
        log.address.lower(),
        log.topics[1].lower(),
        0,
        1,
        -amount0,
        -amount1,
        None,
        log.transaction_hash.lower(),
        int(log.log_index, 16),
    )


def _curve(log: EvmLog) -> SwapLog | None:
    # buyer indexed; sold_id, tokens_sold, bought_id, tokens_bought.
    buyer = address_in(log.topics[1])
    sold, bought = _uint(log.data, 0), _uint(log.data, 2)
    if buyer is None or sold >= _MOST_COINS or bought >= _MOST_COINS:
        return None
    emitter = log.address.lower()
    return SwapLog(
        _LAYOUT_OF[log.topics[0].lower()],
        emitter,
        emitter,
        sold,
        bought,
        _uint(log.data, 1),
        -_uint(log.data, 3),
        buyer,
        log.transaction_hash.lower(),
        int(log.log_index, 16),
    )


def _balancer_v1(log: EvmLog) -> SwapLog | None:
    # caller, tokenIn, tokenOut indexed; tokenAmountIn, tokenAmountOut.
    caller = address_in(log.topics[1])
    return None if caller is None else _by_token(log, "balancer-v1", log.address.lower(), caller)


def _balancer_v2(log: EvmLog) -> SwapLog | None:
    # poolId, tokenIn, tokenOut indexed; amountIn, amountOut.
    return _by_token(log, "balancer-v2", log.topics[1].lower(), None)


def _by_token(log: EvmLog, layout: Layout, pool: str, recipient: str | None) -> SwapLog | None:
    sold, bought = address_in(log.topics[2]), address_in(log.topics[3])
    if sold is None or bought is None:
        return None
    return SwapLog(
        layout,
        log.address.lower(),
        pool,
        sold,
        bought,
        _uint(log.data, 0),
        -_uint(log.data, 1),
        recipient,
        log.transaction_hash.lower(),
        int(log.log_index, 16),
    )


_SHAPES: Final[Mapping[Layout, tuple[int, int, Callable[[EvmLog], SwapLog | None]]]] = {
    "v2": (3, 4, _v2),
    "solidly": (3, 4, _v2),
    "v3": (3, 5, _v3),
    "pancake-v3": (3, 7, _v3),
    "algebra-integral": (3, 7, _v3),
    "v4": (3, 6, _v4),
    "curve-int128": (2, 4, _curve),
    "curve-uint256": (2, 4, _curve),
    "curve-ng": (2, 6, _curve),
    "curve-underlying": (2, 4, _curve),
    "balancer-v1": (4, 2, _balancer_v1),
    "balancer-v2": (4, 2, _balancer_v2),
}
"""Number of topics, words of data and slices of each layout."""

_LAYOUT_OF: Final[Mapping[str, Layout]] = {topic: layout for layout, topic in TOPICS.items()}
_DECODERS: Final = {
    TOPICS[layout]: (topics, 2 + words * _WORD, slices)
    for layout, (topics, words, slices) in _SHAPES.items()
}
