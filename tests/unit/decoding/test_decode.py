"""The event table (DESIGN 3) as two tables: what is accepted and how, what is refused and why.

The rules and the compiled passes decode every row, and must agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import pytest

from aggregator.contracts.event import Swap, block_check, marker_of
from aggregator.decoding.rules import REASONS, decode_swap
from aggregator.runtime.errors import BadMessage
from tests.unit.decoding.test_fast_decode import check

RECORD_AT = 1_700_000_000_000
MAX_FUTURE = 300_000
ADDRESS = "0x56178A0D5F301BAF6CF3E1CD53D9863437345BF9"

GOOD: dict[str, Any] = {
    "chain": "ethereum",
    "tx_hash": "0x913b404f",
    "log_index": 7,
    "timestamp": RECORD_AT - 1000,
    "token": "APE",
    "side": "buy",
    "amount": "2",
    "amount_usd": "26.8",
}


Decode = Callable[[bytes | None], Swap]


def reference(value: bytes | None) -> Swap:
    return decode_swap(value, RECORD_AT, MAX_FUTURE)


def compiled(value: bytes | None) -> Swap:
    """The compiled passes agree, as in a running process that knows the names of the event."""
    try:
        event = json.loads(value or b"")
        names = {name: event[name] for name in ("chain", "token", "symbol") if name in event}
        check(json.dumps(GOOD | names).encode())
    except (ValueError, TypeError, RecursionError):
        pass
    outcome = check(value)
    if isinstance(outcome, Swap):
        return outcome
    raise BadMessage(*outcome)


@pytest.fixture(params=[reference, compiled], ids=lambda way: way.__name__)
def decode(request: pytest.FixtureRequest) -> Decode:
    return request.param


def event(change: dict[str, Any], drop: str = "") -> bytes:
    changed = {name: value for name, value in (GOOD | change).items() if name != drop}
    return json.dumps(changed).encode()


ACCEPTED = [
    ("as it is", {}, "token_id", "ethereum:APE"),
    ("token keeps its case", {"token": "aPe"}, "token", "aPe"),
    ("token address lower-cased", {"token": ADDRESS}, "token", ADDRESS.lower()),
    ("40 hex without 0x keep their case", {"token": ADDRESS[2:]}, "token", ADDRESS[2:]),
    (
        "a Move type with needless zeros and white space",
        {"token": "0x0002::coin::Coin<0x00Ab::usd::USD, vector<u8>>"},
        "token_id",
        "ethereum:0x2::coin::Coin<0xab::usd::USD,vector<u8>>",
    ),
    (
        "a Move type that is too long only as it comes",
        {"token": f"0x{'0' * 63}2::c::C<0x{'0' * 63}3::d::D>"},
        "token",
        "0x2::c::C<0x3::d::D>",
    ),
    ("base58 keeps its case", {"token": "So1111aB"}, "token_id", "ethereum:So1111aB"),
    ("token with / and :", {"token": "ibc/27:39"}, "token_id", "ethereum:ibc/27:39"),
    ("token of 256 characters", {"token": "t" * 256}, "token", "t" * 256),
    (
        "a Move type of 256 characters in canonical form",
        {"token": f"0x{'0' * 63}2::m::{'T' * 248}"},
        "token",
        f"0x2::m::{'T' * 248}",
    ),
    ("0x hash lower-cased", {"tx_hash": "0xABCD"}, "tx_hash", "0xabcd"),
    ("other hash keeps its case", {"tx_hash": "5VERYBase58"}, "tx_hash", "5VERYBase58"),
    ("hash of 128 characters", {"tx_hash": "h" * 128}, "tx_hash", "h" * 128),
    ("log_index 0", {"log_index": 0}, "log_index", 0),
    ("log_index 2^63-1", {"log_index": 2**63 - 1}, "log_index", 2**63 - 1),
    ("chain of 32 characters", {"chain": "a" * 32}, "chain", "a" * 32),
    ("chain of a digit", {"chain": "1"}, "chain", "1"),
    ("timestamp of 2009", {"timestamp": 1230768000000}, "timestamp", 1230768000000),
    ("timestamp ISO of 2009", {"timestamp": "2009-01-01T00:00Z"}, "timestamp", 1230768000000),
    ("timestamp ISO Z", {"timestamp": "2023-11-14T22:13:19.500Z"}, "timestamp", RECORD_AT - 500),
    (
        "timestamp ISO +02:00",
        {"timestamp": "2023-11-15T00:13:19+02:00"},
        "timestamp",
        1699999999000,
    ),
    (
        "timestamp ISO microseconds cut",
        {"timestamp": "2023-11-14T22:13:19.500999+00:00"},
        "timestamp",
        RECORD_AT - 500,
    ),
    (
        "timestamp exactly MAX_FUTURE ahead",
        {"timestamp": RECORD_AT + MAX_FUTURE},
        "timestamp",
        RECORD_AT + MAX_FUTURE,
    ),
    ("side sell", {"side": "sell"}, "is_buy", False),
    ("side buy", {}, "is_buy", True),
    ("amount in 10^-18", {"amount": "0.000000000000000001"}, "amount_attos", 1),
    ("amount half-even down", {"amount": "0.0000000000000000025"}, "amount_attos", 2),
    ("amount half-even up", {"amount": "0.0000000000000000035"}, "amount_attos", 4),
    (
        "amount with 30 digits exact",
        {"amount": "216700078292.681000000000000001"},
        "amount_attos",
        216700078292681000000000000001,
    ),
    ("usd in micro-USD", {"amount_usd": "1.000001"}, "usd_micros", 1_000_001),
    ("usd half-even down", {"amount_usd": "0.0000005"}, "usd_micros", 0),
    ("usd half-even up", {"amount_usd": "0.0000015"}, "usd_micros", 2),
    ("usd 0", {"amount_usd": "0"}, "usd_micros", 0),
    ("usd null is unpriced", {"amount_usd": None}, "usd_micros", None),
    ("price derived", {}, "price_usd", 13.4),
    ("price given wins", {"price_usd": "13.5"}, "price_usd", 13.5),
    ("price of an unpriced swap", {"amount_usd": None, "price_usd": "3"}, "price_usd", 3.0),
    ("no price without usd", {"amount_usd": None}, "price_usd", None),
    ("a price of 0 is no price", {"amount_usd": "0"}, "price_usd", None),
    ("removed", {"removed": True}, "removed", True),
    ("trader lower-cased", {"trader": ADDRESS}, "trader", ADDRESS.lower()),
    ("pool lower-cased", {"pool": ADDRESS}, "pool", ADDRESS.lower()),
    ("symbol null", {"symbol": None}, "symbol", None),
    ("block_hash lower-cased", {"block_hash": "0xAB"}, "block_hash", "0xab"),
    ("block_hash of another chain", {"block_hash": "5VERYBase58"}, "block_hash", "5VERYBase58"),
    ("block_hash null", {"block_hash": None}, "block_hash", None),
    ("no leg is the first", {}, "leg", 0),
    ("leg null", {"leg": None}, "leg", 0),
    ("leg 1", {"leg": 1}, "leg", 1),
    ("quote_token lower-cased", {"quote_token": ADDRESS}, "quote_token", ADDRESS.lower()),
    ("reserve_token", {"reserve_token": "1.5"}, "reserve_token", 1.5),
    ("reserve_token 0", {"reserve_token": "0"}, "reserve_token", 0.0),
    ("reserve_token null", {"reserve_token": None}, "reserve_token", None),
    ("reserve_quote a number", {"reserve_quote": 2.25e3}, "reserve_quote", 2250.0),
    ("no reserve_quote", {}, "reserve_quote", None),
    ("unknown fields ignored", {"gas": 1}, "log_index", 7),
]


@pytest.mark.parametrize(
    ("name", "change", "field", "value"), ACCEPTED, ids=[r[0] for r in ACCEPTED]
)
def test_accepted(
    decode: Decode, name: str, change: dict[str, Any], field: str, value: Any
) -> None:
    assert getattr(decode(event(change)), field) == value


def test_a_json_number_is_read_by_its_digits(decode: Decode) -> None:
    raw = json.dumps(GOOD).replace('"26.8"', "0.1000000000000000055511151231257827")
    raw = raw.replace('"2"', "123456789012.123456789012345678")
    swap = decode(raw.encode())
    assert swap.amount_attos == 123456789012123456789012345678
    assert swap.usd_micros == 100_000


def test_identity_is_the_event_and_its_token(decode: Decode) -> None:
    plain = decode(event({}))
    assert plain.event_id == "ethereum:0x913b404f:7"
    assert plain.marker == marker_of("ethereum", "0x913b404f", 7, "APE")
    assert plain.marker == blake2b(b"ethereum:0x913b404f:7:APE", digest_size=16).digest()
    same = [{"block_hash": "0xA"}, {"leg": 1}, {"removed": True}, {"amount": "3", "trader": "t"}]
    assert {decode(event(change)).marker for change in same} == {plain.marker}
    others = [{"token": "APF"}, {"log_index": 8}, {"tx_hash": "0x1"}, {"chain": "base"}]
    assert len({plain.marker, *(decode(event(change)).marker for change in others)}) == 5


def test_a_block_has_twelve_bits(decode: Decode) -> None:
    assert decode(event({})).block_check == 0
    # FNV-1a of 64 bits, with the reference implementation's values for "a" and "foobar".
    for text, fnv in (("a", 0xAF63DC4C8601EC8C), ("foobar", 0x85944171F73967E8)):
        assert block_check(text) == 1 + (fnv ^ fnv >> 32) % 4_095
    checks = [decode(event({"block_hash": f"0xA{n:x}"})).block_check for n in range(2_000)]
    assert checks == [block_check(f"0xa{n:x}") for n in range(2_000)]
    assert min(checks) >= 1 and max(checks) <= 4_095
    assert len(set(checks)) > 1_400, "2,000 of 4,095 values should meet about 1,580"


LABELS = ("symbol", "quote", "quote_token", "venue", "pool", "trader", "block_hash")


@pytest.mark.parametrize("field", LABELS)
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", None),
        ("   ", None),
        ("\x00\x00", None),
        ("\t \u00a0\u3000\n", None),
        ("\u200b\u2060\ufeff", None),
        ("x" * 256, "x" * 256),
        ("x" * 257, "x" * 256),
        ("\u5e01" * 5_000, "\u5e01" * 256),
        ("\U0001f984" * 300, "\U0001f984" * 256),
        (" TOK ", " TOK "),
        ("a\x7fb\x85c", "abc"),
        ("\u202eKOT\u202c", "KOT"),
        ("T\u200bO\u00adK", "TOK"),
        ("\u5e01\u00e9", "\u5e01\u00e9"),
        (ADDRESS + "\u200b", ADDRESS.lower()),
        ("0x" + "a" * 300, "0x" + "a" * 254),
    ],
)
def test_a_label_never_loses_the_swap(
    decode: Decode, field: str, given: str, kept: str | None
) -> None:
    swap = decode(event({field: given}))
    assert getattr(swap, field) == kept
    assert swap.usd_micros == 26_800_000


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("chain in upper case", {"chain": "Ethereum"}, "rule", "chain"),
    ("chain empty", {"chain": ""}, "rule", "chain"),
    ("chain begins with -", {"chain": "-eth"}, "rule", "chain"),
    ("chain of 33", {"chain": "a" * 33}, "rule", "chain"),
    ("chain with a newline at its end", {"chain": "eth\n"}, "rule", "chain"),
    ("chain a number", {"chain": 1}, "type", "chain"),
    ("hash empty", {"tx_hash": ""}, "rule", "tx_hash"),
    ("hash of 129", {"tx_hash": "h" * 129}, "rule", "tx_hash"),
    ("hash with a space", {"tx_hash": "a b"}, "rule", "tx_hash"),
    ("hash with :", {"tx_hash": "a:b"}, "rule", "tx_hash"),
    ("log_index negative", {"log_index": -1}, "rule", "log_index"),
    ("log_index 2^63", {"log_index": 2**63}, "rule", "log_index"),
    ("log_index a string", {"log_index": "7"}, "type", "log_index"),
    ("log_index a bool", {"log_index": True}, "type", "log_index"),
    ("log_index a fraction", {"log_index": 1.5}, "type", "log_index"),
    ("timestamp a fraction", {"timestamp": 1.5}, "type", "timestamp"),
    ("timestamp negative", {"timestamp": -1}, "rule", "timestamp"),
    ("timestamp without a zone", {"timestamp": "2023-11-14T22:13:19"}, "rule", "timestamp"),
    ("timestamp a date", {"timestamp": "2023-11-14"}, "rule", "timestamp"),
    ("timestamp digits in a string", {"timestamp": "1699999999000"}, "rule", "timestamp"),
    ("timestamp before 1970", {"timestamp": "1969-12-31T23:59:59Z"}, "rule", "timestamp"),
    ("timestamp before 2009", {"timestamp": 1230767999999}, "rule", "timestamp"),
    ("timestamp ISO before 2009", {"timestamp": "2008-12-31T23:59:59Z"}, "rule", "timestamp"),
    ("s in a retraction", {"timestamp": 1699999999, "removed": True}, "rule", "timestamp"),
    (
        "timestamp beyond MAX_FUTURE",
        {"timestamp": RECORD_AT + MAX_FUTURE + 1},
        "future",
        "timestamp",
    ),
    ("token empty", {"token": ""}, "rule", "token"),
    ("token of 257", {"token": "t" * 257}, "rule", "token"),
    ("token with a tab", {"token": "a\tb"}, "rule", "token"),
    ("token with a control character", {"token": "a\x01b"}, "rule", "token"),
    ("white space inside a name of a Move type", {"token": "0x2::a b::C"}, "rule", "token"),
    ("token null", {"token": None}, "type", "token"),
    ("side hold", {"side": "hold"}, "rule", "side"),
    ("side in upper case", {"side": "BUY"}, "rule", "side"),
    ("amount 0", {"amount": "0"}, "rule", "amount"),
    ("amount negative", {"amount": "-1"}, "rule", "amount"),
    ("amount NaN", {"amount": "NaN"}, "rule", "amount"),
    ("amount infinite", {"amount": "Infinity"}, "rule", "amount"),
    ("amount absurd", {"amount": "1e999999"}, "rule", "amount"),
    ("amount words", {"amount": "two"}, "rule", "amount"),
    ("amount a bool", {"amount": True}, "type", "amount"),
    ("amount null", {"amount": None}, "type", "amount"),
    ("usd negative", {"amount_usd": "-0.01"}, "rule", "amount_usd"),
    ("usd beyond int64", {"amount_usd": "9223372036854.775807"}, "rule", "amount_usd"),
    ("usd NaN", {"amount_usd": "NaN"}, "rule", "amount_usd"),
    ("price 0", {"price_usd": "0"}, "rule", "price_usd"),
    ("price negative", {"price_usd": "-1"}, "rule", "price_usd"),
    ("price NaN", {"price_usd": "NaN"}, "rule", "price_usd"),
    ("price signalling NaN", {"price_usd": "sNaN"}, "rule", "price_usd"),
    ("amount signalling NaN", {"amount": "sNaN"}, "rule", "amount"),
    ("price beyond a float", {"price_usd": "1e400"}, "rule", "price_usd"),
    ("removed a string", {"removed": "true"}, "type", "removed"),
    ("symbol a number", {"symbol": 1}, "type", "symbol"),
    ("block_hash a number", {"block_hash": 1}, "type", "block_hash"),
    ("leg 2", {"leg": 2}, "rule", "leg"),
    ("leg a string", {"leg": "1"}, "type", "leg"),
    ("leg a bool", {"leg": True}, "type", "leg"),
    ("quote_token a number", {"quote_token": 1}, "type", "quote_token"),
    ("reserve negative", {"reserve_token": "-1"}, "rule", "reserve_token"),
    ("reserve hardly negative", {"reserve_token": "-1e-999"}, "rule", "reserve_token"),
    ("reserve NaN", {"reserve_quote": "NaN"}, "rule", "reserve_quote"),
    ("reserve signalling NaN", {"reserve_quote": "sNaN"}, "rule", "reserve_quote"),
    ("reserve infinite", {"reserve_quote": "Infinity"}, "rule", "reserve_quote"),
    ("reserve beyond a float", {"reserve_quote": "1e400"}, "rule", "reserve_quote"),
    ("reserve a bool", {"reserve_quote": True}, "type", "reserve_quote"),
    ("block_number negative", {"block_number": -1}, "rule", "block_number"),
]


@pytest.mark.parametrize(
    ("name", "change", "reason", "field"), REFUSED, ids=[r[0] for r in REFUSED]
)
def test_refused(
    decode: Decode, name: str, change: dict[str, Any], reason: str, field: str
) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(event(change))
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert caught.value.detail
    assert reason in REASONS


@pytest.mark.parametrize(
    "field", ["chain", "tx_hash", "log_index", "timestamp", "token", "side", "amount"]
)
def test_a_required_field_is_named_when_missing(decode: Decode, field: str) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(event({}, drop=field))
    assert (caught.value.reason, caught.value.field) == ("missing", field)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"{", "not_json"),
        (b"[]", "not_json"),
        (b"null", "not_json"),
        (b"\x00\x01", "not_json"),
        (b"{} {}", "missing"),
        (b'{"chain":"\xff"}', "not_json"),
        (b"[" * 100_000, "not_json"),
        (json.dumps(GOOD).encode() + b" x", "not_json"),
    ],
)
def test_what_is_no_object_is_refused(decode: Decode, value: bytes | None, reason: str) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(value)
    assert caught.value.reason == reason


def test_seconds_in_place_of_milliseconds_are_named(decode: Decode) -> None:
    for removed in (False, True):
        with pytest.raises(BadMessage, match="looks like seconds: give milliseconds"):
            decode(event({"timestamp": RECORD_AT // 1_000, "removed": removed}))


def test_a_message_with_a_million_digits_makes_a_short_detail(decode: Decode) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(event({"amount": "9" * 1_000_000}))
    assert len(caught.value.detail) < 200
