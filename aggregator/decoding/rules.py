"""Turns the bytes of one Kafka message into a `Swap`, or says why it cannot be counted.

Every rule of the event table (DESIGN 3) is defined here. The compiled passes in `plain` decode
common events faster, with the same result, and leave all others to these rules. Pure: takes bytes
and the record's timestamp, returns a Swap or raises BadMessage; knows nothing of Kafka or Redis.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Annotated, Final, Literal

import msgspec

from aggregator.contracts.event import EARLIEST_MS, Swap, marker_of
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
    "future": "the event is too far ahead of its Kafka record",
    "partitioner": "the record was forwarded to a partition that is not its token's home either: "
    "two processes disagree about KAFKA_PARTITIONER or the number of partitions",
    "too_large": "the record is too large to be forwarded to its token's home partition",
}
"""Why a record is in the dead-letter topic; the last two come from forwarding, not from here."""

_INT64_MAX: Final = 2**63 - 1
LONGEST_LABEL: Final = 256
"""The longest label (`_label`) and block hash in characters; longer ones are cut."""
_MAX_USD: Final = Decimal(_INT64_MAX) / 1_000_000
# Ten decimal digits above any known supply; bounds the size of a window's sums.
_MAX_AMOUNT: Final = Decimal(10) ** 30
_EXACT: Final = Context(prec=80, rounding=ROUND_HALF_EVEN)
_INVISIBLE: Final = {"Cc", "Cf"}
_ADDRESS: Final = re.compile(r"0[xX][0-9a-fA-F]{40}\Z")

_TxHash = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\s:]+\Z")]
# `canonical_token` holds the rules: some spellings are longer than their canonical form.
_TokenName = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_SPELLING)]
_Whole = Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX)]


class _WireSwap(msgspec.Struct, kw_only=True, gc=False):
    """The JSON object as it was sent; msgspec checks types, lengths, patterns and ranges."""

    chain: Annotated[str, msgspec.Meta(pattern=rf"^{CHAIN_PATTERN}\Z")]
    tx_hash: _TxHash
    log_index: _Whole
    timestamp: _Whole | str
    token: _TokenName
    side: Literal["buy", "sell"]
    amount: Decimal
    amount_usd: Decimal | None = None
    price_usd: Decimal | None = None
    removed: bool = False
    leg: Literal[0, 1] | None = None
    symbol: str | None = None
    quote: str | None = None
    quote_token: str | None = None
    venue: str | None = None
    pool: str | None = None
    trader: str | None = None
    block_number: _Whole | None = None
    block_hash: str | None = None
    reserve_token: Decimal | None = None
    reserve_quote: Decimal | None = None


_decode_wire = msgspec.json.Decoder(_WireSwap).decode
# Anchored, because the middle of msgspec's message may repeat text that the producer wrote.
_FIELD_OF_PATH: Final = re.compile(r"`\$\.(\w+)`\Z")
_FIELD_OF_MISSING: Final = re.compile(r"Object missing required field `(\w+)`\Z")


def decode_swap(
    value: bytes | None, record_timestamp: int, max_future_ms: int, *, forwarded: bool = False
) -> Swap:
    """Decode and normalise the swap in `value`.

    `record_timestamp` is the Kafka record's, ms since the epoch. A `forwarded` record was judged
    for its future where it was first read, and is not judged again: its timestamp is a newer one.
    Raises BadMessage with a reason of REASONS, the field, and a sentence that says what would be
    accepted.
    """
    wire = _wire_swap(value)
    timestamp = _timestamp(wire, record_timestamp + max_future_ms)
    if timestamp > record_timestamp + max_future_ms and not forwarded:
        ahead = (timestamp - record_timestamp) / 1000
        raise BadMessage(
            "future",
            "timestamp",
            f"{ahead:.0f} s ahead of its Kafka record; at most {max_future_ms / 1000:.0f} s",
        )
    tx_hash = _lower_hash(wire.tx_hash)
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
        marker=marker_of(wire.chain, tx_hash, wire.log_index, token),
        symbol=_label(wire.symbol),
        trader=_label(wire.trader),
        quote=_label(wire.quote),
        venue=_label(wire.venue),
        pool=_label(wire.pool),
        block_number=wire.block_number,
        block_hash=_block_hash(wire.block_hash),
        leg=wire.leg or 0,
        quote_token=_label(wire.quote_token),
        reserve_token=_reserve("reserve_token", wire.reserve_token),
        reserve_quote=_reserve("reserve_quote", wire.reserve_quote),
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
    """Translate msgspec's message to a reason and a field."""
    missing = _FIELD_OF_MISSING.match(message)
    if missing:
        return BadMessage("missing", missing[1], message)
    path = _FIELD_OF_PATH.search(message)
    if path is None:
        return BadMessage("not_json", "", message)
    reason = "type" if message.startswith("Expected") and ", got" in message else "rule"
    return BadMessage(reason, path[1], message)


def _timestamp(wire: _WireSwap, latest: int) -> int:
    """Return the time of the event, ms since the epoch.

    A retraction is never too late for its record: its identity decides what it takes out, and its
    own values hardly matter. But a time in microseconds would be beyond what a table of the archive
    can hold, so the time of a retraction is at most `latest`.
    """
    given = wire.timestamp
    timestamp = given if isinstance(given, int) else _iso_ms(given)
    if timestamp < EARLIEST_MS:
        detail = f"{_short(given)}: before 2009-01-01"
        if isinstance(given, int):
            detail += "; looks like seconds: give milliseconds"
        raise BadMessage("rule", "timestamp", detail)
    return min(timestamp, latest) if wire.removed else timestamp


def _iso_ms(text: str) -> int:
    """Convert ISO 8601 with a zone to ms since the epoch; smaller digits are cut off."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise BadMessage(
            "rule", "timestamp", f"{text[:64]!r}: give ms since the epoch or ISO 8601 with a zone"
        )
    seconds = round(when.replace(microsecond=0).timestamp())
    return seconds * 1000 + when.microsecond // 1000


def _lower_hash(text: str) -> str:
    """Lower-case a 0x hash of any length; return anything else unchanged."""
    return text.lower() if text[:2] in {"0x", "0X"} else text


def lower_address(text: str) -> str:
    """Lower-case a 0x address of 40 digits; return anything else unchanged."""
    return text.lower() if len(text) == 42 and _ADDRESS.match(text) else text


def _token(text: str) -> str:
    try:
        return canonical_token(text)
    except TokenIdInvalid as error:
        raise BadMessage("rule", "token", str(error)) from None


def _label(text: str | None) -> str | None:
    """Normalise a symbol, quote, quote token, venue, pool or trader; None where it is blank.

    A label describes a swap and never decides whether the swap counts. It is cut to LONGEST_LABEL
    characters, and control and format characters (Unicode Cc and Cf: NUL, line breaks, direction
    overrides, zero-width characters) are removed, so that labels that look equal are equal.
    """
    cleaned = _cleaned(text)
    return None if cleaned is None else lower_address(cleaned)


def _block_hash(text: str | None) -> str | None:
    """Normalise a block hash, as little decisive as a label; None where it is blank."""
    cleaned = _cleaned(text)
    return None if cleaned is None else _lower_hash(cleaned)


def _cleaned(text: str | None) -> str | None:
    if text is None:
        return None
    text = text[:LONGEST_LABEL]
    if not text.isprintable():
        text = "".join(each for each in text if unicodedata.category(each) not in _INVISIBLE)
    return text if text.strip() else None


def _reserve(field: str, reserve: Decimal | None) -> float | None:
    if reserve is None:
        return None
    # Comparing a signalling NaN raises, so test for finite numbers first.
    number = float(reserve) if reserve.is_finite() else float("inf")
    if not 0 <= number < float("inf") or reserve < 0:
        raise BadMessage("rule", field, f"{_short(reserve)}: must be null or a number from 0 on")
    return number + 0.0  # -0.0 becomes 0.0.


def _numbers(wire: _WireSwap) -> tuple[int, int | None, float | None]:
    """Return (amount in 10^-18 token, micro-USD or None, price in USD or None)."""
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
        # Comparing a signalling NaN raises, so test for finite numbers first.
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


def _short(value: Decimal | int | str) -> str:
    """Format a value for a message; a hostile number may have a million digits."""
    return str(value)[:64]
