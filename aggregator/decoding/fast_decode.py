"""The plainly good event, decoded at half the cost; every other goes to `decode.decode_swap`.

`decode` holds the rules and makes every error. This module turns an event into the very Swap that
`decode_swap` makes where it is sure to, and asks it where it is not: what is read here is only a
part of what is accepted there. Pure, its memo of names aside.
"""

from __future__ import annotations

from typing import Final

import msgspec

from aggregator.contracts.batch import SwapTexts
from aggregator.contracts.event import ATTOS_PER_TOKEN, Swap, marker_of
from aggregator.decoding.rules import (
    INT64_MAX,
    WireFields,
    decode_swap,
    iso_ms,
    label,
    lower_hash,
)
from aggregator.runtime.errors import BadMessage

# Some 60 MB of names; a busy day of every chain has fewer tokens.
_MAX_NAMES: Final = 131_072
_MAX_HASH: Final = 128
_MAX_DIGITS: Final = 48
_MAX_ATTOS: Final = 10**30 * ATTOS_PER_TOKEN
_POWERS: Final[tuple[int, ...]] = tuple(10**exponent for exponent in range(_MAX_DIGITS + 1))


class _TextSwap(WireFields, kw_only=True, gc=False):
    """The JSON object as it comes; names are not checked yet, decimals are text."""

    chain: str
    tx_hash: str
    token: str
    amount: str
    amount_usd: str | None = None
    price_usd: str | None = None


class _Texts(msgspec.Struct, gc=False):
    """Of a message that was accepted before."""

    tx_hash: str
    log_index: int
    trader: str | None = None
    venue: str | None = None
    pool: str | None = None
    quote: str | None = None


_decode_wire = msgspec.json.Decoder(_TextSwap).decode
_decode_texts = msgspec.json.Decoder(_Texts).decode


class _Unsure(Exception):
    """Not plainly good: `decode_swap` decides."""


_NOT_PLAIN: Final = (
    _Unsure,
    BadMessage,
    msgspec.MsgspecError,
    RecursionError,
    TypeError,
    UnicodeError,
)


class SwapDecoder:
    """`decode_swap` with a memory of the names that it has accepted."""

    def __init__(self, max_future_ms: int, max_names: int = _MAX_NAMES) -> None:
        self._max_future_ms = max_future_ms
        self._max_names = max_names
        # (chain, token) as they come, to (token_id, chain, token) as `decode_swap` made them.
        self._names: dict[tuple[str, str], tuple[str, str, str]] = {}

    def decode(self, value: bytes | None, record_timestamp: int) -> Swap:
        """The swap in `value`; raises BadMessage. See `decode_swap`."""
        wire = None
        try:
            wire = _decode_wire(value)  # type: ignore[arg-type]
            return self._swap(wire, record_timestamp)
        except _NOT_PLAIN:
            swap = decode_swap(value, record_timestamp, self._max_future_ms)
            if wire is not None:
                self._remember((wire.chain, wire.token), swap)
            return swap

    def _remember(self, names: tuple[str, str], swap: Swap) -> None:
        if len(self._names) >= self._max_names:
            self._names.clear()
        self._names[names] = (swap.token_id, swap.chain, swap.token)

    def _swap(self, wire: _TextSwap, record_timestamp: int) -> Swap:
        names = self._names.get((wire.chain, wire.token))
        timestamp, tx_hash, block_hash = wire.timestamp, wire.tx_hash, wire.block_hash
        if isinstance(timestamp, str):
            timestamp = iso_ms(timestamp)
        if (
            names is None
            or timestamp > record_timestamp + self._max_future_ms
            # Letters and digits of ASCII hold neither white space nor ":".
            or not tx_hash.encode().isalnum()
            or len(tx_hash) > _MAX_HASH
        ):
            raise _Unsure
        token_id, chain, token = names
        tx_hash = lower_hash(tx_hash)
        if block_hash is not None:
            block_hash = lower_hash(block_hash)
        amount_attos = _scaled(wire.amount, 18)
        usd_micros = price_usd = None
        if wire.amount_usd is not None:
            usd_micros = _scaled(wire.amount_usd, 6)
        if not 0 < amount_attos < _MAX_ATTOS or (usd_micros or 0) >= INT64_MAX:
            raise _Unsure
        if wire.price_usd is not None:
            price_usd = _price(wire.price_usd)
        elif wire.amount_usd is not None:
            price_usd = float(wire.amount_usd) / float(wire.amount) or None
        # By position: names would cost a third of the making.
        return Swap(
            token_id,
            chain,
            token,
            tx_hash,
            wire.log_index,
            timestamp,
            wire.side == "buy",
            amount_attos,
            usd_micros,
            price_usd,
            wire.removed,
            marker_of(chain, tx_hash, wire.log_index, block_hash),
            label(wire.symbol),
            label(wire.trader),
            label(wire.quote),
            label(wire.venue),
            label(wire.pool),
            wire.block_number,
            block_hash,
        )


def accepted_texts(value: bytes) -> SwapTexts:
    """The texts of the swap in `value`, which was decoded before."""
    wire = _decode_texts(value)
    return SwapTexts(
        lower_hash(wire.tx_hash),
        wire.log_index,
        label(wire.trader),
        label(wire.venue),
        label(wire.pool),
        label(wire.quote),
    )


def _scaled(text: str, places: int) -> int:
    """A plain decimal, digits with at most one point, in units of 10^-places, half-even."""
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    if len(digits) > _MAX_DIGITS or not digits.encode().isdigit():
        raise _Unsure
    number = int(digits)
    shift = places - len(fraction)
    if shift >= 0:
        return number * _POWERS[shift]
    unit = _POWERS[-shift]
    quotient, rest = divmod(number, unit)
    if rest * 2 > unit or (rest * 2 == unit and quotient % 2):
        quotient += 1
    return quotient


def _price(text: str) -> float:
    """A plain decimal above 0."""
    if not _scaled(text, _MAX_DIGITS):
        raise _Unsure
    return float(text)
