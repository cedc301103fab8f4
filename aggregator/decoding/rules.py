"""Turns the bytes of one Kafka message into a `Swap`, or says why it cannot be counted.

Every rule of the event table (DESIGN 3) is here and nowhere else; `fast_decode` is the quick way
for the events that plainly keep them. Pure: bytes and the record's
timestamp in, a Swap out or BadMessage raised; knows nothing of Kafka's client or of Redis.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Annotated, Final, Literal

import msgspec

from aggregator.contracts.event import Swap, marker_of
from aggregator.contracts.ids import (
    CHAIN_PATTERN,
    LONGEST_SPELLING,
    TokenId,
    TokenIdInvalid,
    canonical_token,
)
from aggregator.runtime.errors import BadMessage

REASONS: Final = {
    "empty": "the message has no value",
    "not_json": "the value is not one JSON object in UTF-8",
    "missing": "a required field is absent",
    "type": "a field has the wrong JSON type",
    "rule": "a field breaks its rule",
    "future": "the event lies too far ahead of its Kafka record",
}

INT64_MAX: Final = 2**63 - 1
LONGEST_LABEL: Final = 256
"""Characters of a symbol, quote, venue, pool or trader; what is longer is cut."""
_MAX_USD: Final = Decimal(INT64_MAX) / 1_000_000
# Ten decimal digits above any known supply; keeps the sums of a window far from absurd sizes.
_MAX_AMOUNT: Final = Decimal(10) ** 30
_EXACT: Final = Context(prec=80, rounding=ROUND_HALF_EVEN)
_INVISIBLE: Final = {"Cc", "Cf"}
_ADDRESS: Final = re.compile(r"0[xX][0-9a-fA-F]{40}\Z")

_TxHash = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\s:]+\Z")]
# `canonical_token` holds the rules: some spellings are longer than what they become.
_TokenName = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_SPELLING)]
_BlockHash = Annotated[str, msgspec.Meta(max_length=256)]
Whole = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]


class WireFields(msgspec.Struct, kw_only=True, gc=False):
    """The fields of the JSON object whose rules msgspec checks for every decoder."""

    log_index: Whole
    timestamp: Whole | str
    side: Literal["buy", "sell"]
    removed: bool = False
    symbol: str | None = None
    quote: str | None = None
    venue: str | None = None
    pool: str | None = None
    trader: str | None = None
    block_number: Whole | None = None
    block_hash: _BlockHash | None = None


class _WireSwap(WireFields, kw_only=True, gc=False):
    """The JSON object as it comes; msgspec checks types, lengths, patterns and ranges."""

    chain: Annotated[str, msgspec.Meta(pattern=rf"^{CHAIN_PATTERN}\Z")]
    tx_hash: _TxHash
    token: _TokenName
    amount: Decimal
    amount_usd: Decimal | None = None
    price_usd: Decimal | None = None


_decode_wire = msgspec.json.Decoder(_WireSwap).decode
# Anchored: the middle of msgspec's message may repeat what a stranger has written.
_FIELD_OF_PATH: Final = re.compile(r"`\$\.(\w+)`\Z")
_FIELD_OF_MISSING: Final = re.compile(r"Object missing required field `(\w+)`\Z")


def decode_swap(value: bytes | None, record_timestamp: int, max_future_ms: int) -> Swap:
    """The swap in `value`, normalised.

    `record_timestamp` is the Kafka record's, ms since the epoch. Raises BadMessage with a reason
    of REASONS, the field and a sentence that tells what would be accepted.
    """
    wire = _wire_swap(value)
    timestamp = wire.timestamp if isinstance(wire.timestamp, int) else iso_ms(wire.timestamp)
    if timestamp > record_timestamp + max_future_ms:
        ahead = (timestamp - record_timestamp) / 1000
        raise BadMessage(
            "future",
            "timestamp",
            f"{ahead:.0f} s ahead of its Kafka record; at most {max_future_ms / 1000:.0f} s",
        )
    tx_hash = lower_hash(wire.tx_hash)
    block_hash = None if wire.block_hash is None else lower_hash(wire.block_hash)
    token = _token(wire.token)
    amount_attos, usd_micros, price_usd = _numbers(wire)
    return Swap(
        token_id=str(TokenId(wire.chain, token)),
        chain=wire.chain,
        token=token,
        tx_hash=tx_hash,
        log_index=wire.log_index,
        timestamp=timestamp,
        is_buy=wire.side == "buy",
        amount_attos=amount_attos,
        usd_micros=usd_micros,
        price_usd=price_usd,
        removed=wire.removed,
        marker=marker_of(wire.chain, tx_hash, wire.log_index, block_hash),
        symbol=label(wire.symbol),
        trader=label(wire.trader),
        quote=label(wire.quote),
        venue=label(wire.venue),
        pool=label(wire.pool),
        block_number=wire.block_number,
        block_hash=block_hash,
    )


def _wire_swap(value: bytes | None) -> _WireSwap:
    if not value:
        raise BadMessage("empty", "", "a message needs a JSON object as its value")
    try:
        return _decode_wire(value)
    except msgspec.ValidationError as error:
        raise _broken_rule(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage("not_json", "", str(error)) from None


def _broken_rule(message: str) -> BadMessage:
    """msgspec's message, as a reason and a field."""
    missing = _FIELD_OF_MISSING.match(message)
    if missing:
        return BadMessage("missing", missing[1], message)
    path = _FIELD_OF_PATH.search(message)
    if path is None:
        return BadMessage("not_json", "", message)
    reason = "type" if message.startswith("Expected") and ", got" in message else "rule"
    return BadMessage(reason, path[1], message)


def iso_ms(text: str) -> int:
    """ISO 8601 with a zone as ms since the epoch; digits below a ms are cut off."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise BadMessage(
            "rule", "timestamp", f"{text[:64]!r}: give ms since the epoch or ISO 8601 with a zone"
        )
    seconds = round(when.replace(microsecond=0).timestamp())
    milliseconds = seconds * 1000 + when.microsecond // 1000
    if milliseconds < 0:
        raise BadMessage("rule", "timestamp", f"{text[:64]!r} lies before 1970")
    return milliseconds


def lower_hash(text: str) -> str:
    """A 0x hash of any length in lower case; anything else as it is."""
    return text.lower() if text[:2] in {"0x", "0X"} else text


def lower_address(text: str) -> str:
    """A 0x address in lower case; anything else as it is."""
    return text.lower() if len(text) == 42 and _ADDRESS.match(text) else text


def _token(text: str) -> str:
    try:
        return canonical_token(text)
    except TokenIdInvalid as error:
        raise BadMessage("rule", "token", str(error)) from None


def label(text: str | None) -> str | None:
    """A symbol, quote, venue, pool or trader as it is kept; None where it says nothing.

    A label describes a swap and never decides whether the swap counts: it is cut to LONGEST_LABEL
    characters, and control and format characters (Unicode Cc and Cf: NUL, line breaks, direction
    overrides, zero-width characters) are removed, so that two labels that look alike are alike.
    """
    if text is None:
        return None
    text = text[:LONGEST_LABEL]
    if not text.isprintable():
        text = "".join(each for each in text if unicodedata.category(each) not in _INVISIBLE)
    return lower_address(text) if text.strip() else None


def _numbers(wire: _WireSwap) -> tuple[int, int | None, float | None]:
    """(amount in 10^-18 token, micro-USD or None, price in USD or None)."""
    amount, usd = wire.amount, wire.amount_usd
    if not amount.is_finite() or not 0 < amount < _MAX_AMOUNT:
        raise BadMessage("rule", "amount", f"{_short(amount)}: must be above 0 and below 1e30")
    if usd is not None and (not usd.is_finite() or not 0 <= usd < _MAX_USD):
        raise BadMessage(
            "rule", "amount_usd", f"{_short(usd)}: must be null or from 0 to below {_MAX_USD}"
        )
    try:
        attos = int(_EXACT.to_integral_value(_EXACT.scaleb(amount, 18)))
        micros = None if usd is None else int(_EXACT.to_integral_value(_EXACT.scaleb(usd, 6)))
    except InvalidOperation:
        raise BadMessage("rule", "amount", f"{_short(amount)}: too many digits") from None
    return attos, micros, _price(wire)


def _price(wire: _WireSwap) -> float | None:
    if wire.price_usd is not None:
        # A signalling NaN cannot even be compared.
        price = float(wire.price_usd) if wire.price_usd.is_finite() else 0.0
        if not 0 < price < float("inf"):
            raise BadMessage(
                "rule", "price_usd", f"{_short(wire.price_usd)}: must be absent or above 0"
            )
        return price
    if not wire.amount_usd:
        return None
    amount = float(wire.amount)
    price = float(wire.amount_usd) / amount if amount else float("inf")
    return price if 0 < price < float("inf") else None


def _short(number: Decimal) -> str:
    """A number for a message: a hostile one may have a million digits."""
    return str(number)[:64]
