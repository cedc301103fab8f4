"""The two events of a pool's swap: which token is base, which is quote, how much moved. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Final, Literal, NamedTuple, Protocol

from sources.events import SwapEvent
from sources.evm.types import MOST_DECIMALS, Block, PoolSwap, Token

Trader = Literal["tx_from", "recipient", "none"]
"""Who is named as trader.

The sender of the transaction is the person who uses routers and aggregators. On chains where
bundlers and relayers send for many people, the recipient of the swap's output says more.
"""

# An event's amount is below 10^30 of its token, and its USD fit int64 micro-USD (DESIGN 3).
_LIMITS: Final[tuple[int, ...]] = tuple(
    10 ** (decimals + 30) for decimals in range(MOST_DECIMALS + 1)
)
_TOO_MUCH_USD: Final = Decimal(2**63 - 1) / 1_000_000
_MICRO: Final = Decimal("0.000001")


class QuoteOrder(Protocol):
    """The order of tokens as money: stables, the native coin, other majors, all other tokens."""

    def rank(self, token: str) -> int:
        """Return the rank of a token; of two tokens the lower rank is the quote."""
        ...


def base_is_0(order: QuoteOrder, token0: str, token1: str) -> bool:
    """Return whether token0 is the base; of equal rank the higher address is the quote."""
    ranks = order.rank(token0), order.rank(token1)
    return token0 < token1 if ranks[0] == ranks[1] else ranks[0] > ranks[1]


def moves_both_ways(amount0: int, amount1: int) -> bool:
    """Return whether a pool received one token and gave the other.

    A donation, a flash loan with change, and 1 unit in for nothing out have the event of a swap
    and are none.
    """
    return (amount0 > 0 and amount1 < 0) or (amount0 < 0 and amount1 > 0)


def decimal_text(amount: int, decimals: int) -> str:
    """Return amount / 10^decimals exactly, in plain digits; amount is from 0 on.

    >>> decimal_text(1_500_000, 6), decimal_text(1, 18)
    ('1.5', '0.000000000000000001')
    """
    digits = str(amount)
    if decimals == 0:
        return digits
    digits = digits.rjust(decimals + 1, "0")
    fraction = digits[-decimals:].rstrip("0")
    return f"{digits[:-decimals]}.{fraction}" if fraction else digits[:-decimals]


def fits(swap: PoolSwap) -> bool:
    """Return whether both amounts are below what an event may have; both decimals are known."""
    limit0, limit1 = _LIMITS[swap.token0.decimals or 0], _LIMITS[swap.token1.decimals or 0]
    return abs(swap.amount0) < limit0 and abs(swap.amount1) < limit1


def trader_of(swap: PoolSwap, block: Block, trader: Trader) -> str | None:
    """Return the wallet that a swap is attributed to, None where it is not known."""
    if trader == "tx_from":
        return block.senders.get(swap.tx_hash)
    return swap.recipient if trader == "recipient" else None


def legs(
    swap: PoolSwap,
    block: Block,
    chain: str,
    order: QuoteOrder,
    *,
    usd: Decimal | None,
    trader: str | None,
) -> tuple[SwapEvent, SwapEvent]:
    """Return the events of a swap: leg 0 of its base token, leg 1 of its quote token.

    `swap` moves both ways and `fits`, and `usd` goes to both, rounded to micro-USD; beyond what an
    event may have it is unknown. Side is the trader's: what leaves the pool is bought.
    """
    side0 = _Side(swap.token0, swap.amount0, swap.reserve0)
    side1 = _Side(swap.token1, swap.amount1, swap.reserve1)
    if not base_is_0(order, swap.token0.address, swap.token1.address):
        side0, side1 = side1, side0
    value = None if usd is None or not 0 <= usd < _TOO_MUCH_USD else f"{usd.quantize(_MICRO):f}"

    def event(leg: int, own: _Side, other: _Side) -> SwapEvent:
        return SwapEvent(
            chain=chain,
            tx_hash=swap.tx_hash,
            log_index=swap.log_index,
            timestamp=block.timestamp * 1000,
            token=own.token.address,
            side="buy" if own.amount < 0 else "sell",
            amount=decimal_text(abs(own.amount), own.token.decimals or 0),
            amount_usd=value,
            block_number=block.number,
            block_hash=block.hash,
            quote_token=other.token.address,
            quote=other.token.symbol,
            leg=leg,
            symbol=own.token.symbol,
            venue=swap.venue,
            pool=swap.pool,
            trader=trader,
            reserve_token=own.reserve_text,
            reserve_quote=other.reserve_text,
        )

    return event(0, side0, side1), event(1, side1, side0)


class _Side(NamedTuple):
    """One token of a swap, its change in the pool, and the pool's reserve of it."""

    token: Token
    amount: int
    reserve: int | None

    @property
    def reserve_text(self) -> str | None:
        if self.reserve is None:
            return None
        return decimal_text(self.reserve, self.token.decimals or 0)
