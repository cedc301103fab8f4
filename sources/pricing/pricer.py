"""The USD value of a chain's swaps: a swap is worth its trusted leg, else unpriced (DESIGN 15).

Only trusted tokens have a price: stables 1 USD unless their reference pools say that they fell by
more than 2 %, the others by `Reference`. Of two trusted legs the smaller counts, so that a swap far
off the market is not worth its better side. A swap without a trusted leg is unpriced: there are no
chains of pools. Pure; the clock is the block time.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final, Literal, NamedTuple

from sources.evm.types import PoolSwap, Token
from sources.pricing.reference import ONE, Reference
from sources.pricing.trusted import Trusted

_OFF_PEG: Final = 98 * ONE // 100
_LEAST_TO_PRICE: Final = ONE
# A micro-dollar and a pico-dollar in the 10^-18 USD of prices and values.
_MICRO: Final = 10**12
_PICO: Final = 10**6

Reason = Literal["", "no_trusted_leg", "no_reference_price", "legs_disagree", "dust"]


class Priced(NamedTuple):
    """What is known of a swap's value.

    `usd` has 12 decimals, rounded down; it is None where no price can be trusted, never a guess.
    Write it with `format(usd, "f")`: `str` may give an exponent. `sets_price` says whether the
    swap may set its token's price: its value is known and at least 1 USD, and its legs agree.
    `reason` says why `usd` is None or `sets_price` is False, else "".
    """

    usd: Decimal | None
    sets_price: bool
    reason: Reason


class ReferencePrice(NamedTuple):
    """A trusted token's price: USD for one token, None if unknown.

    `newest_s` is the block time of the newest swap that made it, `held` how often it was held back.
    """

    usd: Decimal | None
    newest_s: int | None
    held: int


class Pricer:
    """Prices the swaps of one chain in the order of the chain, from the trusted tokens."""

    def __init__(self, trusted: Trusted) -> None:
        self._stables = trusted.stables
        self._natives = trusted.natives
        self._pools = trusted.reference_pools
        self._pegs = {token: Reference(anchor=ONE) for token in trusted.stables}
        native = Reference()
        self._references = {token: Reference() for token in trusted.majors - trusted.natives}
        self._references |= dict.fromkeys(trusted.natives, native)
        self._now_s = 0

    def price(self, swap: PoolSwap, timestamp_s: int) -> Priced:
        """Return a swap's value; a swap of a reference pool prices those of later blocks.

        `timestamp_s` is the time of its block. A time before that of an earlier block counts as
        that block's.
        """
        now_s = self._advance(timestamp_s)
        value0 = self._value(swap.token0, swap.amount0, now_s)
        value1 = self._value(swap.token1, swap.amount1, now_s)
        if swap.pool in self._pools:
            self._observe(swap, now_s)
        if value0 is None or value1 is None:
            value = value1 if value0 is None else value0
            if value is None:
                return Priced(None, False, self._why_unpriced(swap))
            disagree = False
        else:
            value = min(value0, value1)
            disagree = 2 * max(value0, value1) > 3 * value
        usd = Decimal(value // _PICO).scaleb(-12)
        if disagree:
            return Priced(usd, False, "legs_disagree")
        if value < _LEAST_TO_PRICE:
            return Priced(usd, False, "dust")
        return Priced(usd, True, "")

    def observe(self, swap: PoolSwap, timestamp_s: int) -> None:
        """Take a swap of a reference pool without pricing it; ignore any other.

        After a restart, pass the reference pools' swaps of the last 10 minutes in order.
        """
        now_s = self._advance(timestamp_s)
        if swap.pool in self._pools:
            self._observe(swap, now_s)

    def reference(self, token: str, timestamp_s: int) -> ReferencePrice:
        """Return a trusted token's price at a block time. Raises KeyError for any other token."""
        now_s = self._advance(timestamp_s)
        if token in self._stables:
            peg = self._pegs[token]
            return ReferencePrice(_usd(self._stable(token, now_s)), peg.newest_s, peg.held)
        found = self._references[token]
        price = found.at(now_s)
        usd = None if price is None else _usd(price)
        return ReferencePrice(usd, found.newest_s, found.held)

    def references(self, wrapped_native: str) -> dict[str, ReferencePrice]:
        """Return the prices, as of the newest block, of tokens that have reference swaps.

        The native coin is always among them, under the address of its wrapping.
        """
        seen = (self._pegs | self._references).items()
        tokens = {token for token, found in seen if found.newest_s is not None}
        return {
            token: self.reference(token, self._now_s)
            for token in sorted(tokens - self._natives | {wrapped_native})
        }

    def _advance(self, timestamp_s: int) -> int:
        self._now_s = max(self._now_s, timestamp_s)
        return self._now_s

    def _value(self, token: Token, amount: int, now_s: int) -> int | None:
        """Return a leg's value in 10^-18 USD, None where its token has no price."""
        if token.decimals is None:
            return None
        price: int | None
        if token.address in self._stables:
            price = self._stable(token.address, now_s)
        elif (reference := self._references.get(token.address)) is not None:
            price = reference.at(now_s)
        else:
            return None
        return None if price is None else abs(amount) * price // 10**token.decimals

    def _stable(self, token: str, now_s: int) -> int:
        """Return a stable's price: 1, or what its pools say where that is over 2 % lower.

        A price above 1 is the other stable's fall seen from this side, so it counts as 1.
        """
        price = self._pegs[token].at(now_s)
        return ONE if price is None or price >= _OFF_PEG else price

    def _why_unpriced(self, swap: PoolSwap) -> Reason:
        for token in (swap.token0, swap.token1):
            if token.decimals is not None and token.address in self._references:
                return "no_reference_price"
        return "no_trusted_leg"

    def _observe(self, swap: PoolSwap, now_s: int) -> None:
        """Hand a swap of a reference pool to the references of its tokens, if one is a stable."""
        first = swap.token0, abs(swap.amount0)
        second = swap.token1, abs(swap.amount1)
        for (token, amount), (quote, paid) in ((first, second), (second, first)):
            if quote.address not in self._stables or token.decimals is None:
                continue
            if quote.decimals is None or not amount:
                continue
            if token.address in self._stables:
                reference, rate = self._pegs[token.address], ONE
            elif token.address in self._references:
                reference = self._references[token.address]
                rate = self._stable(quote.address, now_s)
            else:
                continue
            value = paid * rate // 10**quote.decimals
            reference.at(now_s)  # the swaps of this block count from the next one on
            reference.observe(
                swap.pool, value * 10**token.decimals // amount, value // _MICRO, now_s
            )


def _usd(price: int) -> Decimal:
    return Decimal(price).scaleb(-18)
