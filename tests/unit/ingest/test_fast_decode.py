"""The fast decoder against the reference: the same swap or the same dead letter, whatever comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aggregator.contracts.event import Swap
from aggregator.errors import DeadLetter
from aggregator.feed.synthetic import Shape, swaps
from aggregator.ingest import fast_decode
from aggregator.ingest.decode import decode_swap
from aggregator.ingest.fast_decode import SwapDecoder

RECORD_AT = 1_700_000_000_000
MAX_FUTURE = 300_000
ADDRESS = "0x56178A0D5F301BAF6CF3E1CD53D9863437345BF9"

GOOD: dict[str, Any] = {
    "chain": "ethereum",
    "tx_hash": "0x913b404f",
    "log_index": 7,
    "timestamp": RECORD_AT,
    "token": "APE",
    "side": "buy",
    "amount": "2",
    "amount_usd": "26.8",
}

# One decoder for all examples: what it remembers of one must not change another.
DECODER = SwapDecoder(MAX_FUTURE, max_names=16)

Outcome = Swap | tuple[str, str, str]


def outcome(value: bytes | None, decoder: SwapDecoder | None) -> Outcome:
    try:
        if decoder is None:
            return decode_swap(value, RECORD_AT, MAX_FUTURE)
        return decoder.decode(value, RECORD_AT)
    except DeadLetter as error:
        return error.reason, error.field, error.detail


def check(value: bytes | None) -> Outcome:
    expected = outcome(value, None)
    for _ in range(2):
        assert outcome(value, DECODER) == expected
    return expected


ODD_NUMBERS = [
    "1e5", "1E-7", "+1", "-1", "-0", "\uff11", "\u0661", "1\u00bd", "\u00b2", "\ud800",
    "1_000", " 1", "1 ", "1\n", ".5", "5.", ".", "", "1.2.3", "1,5", "0x10",
    "NaN", "sNaN", "inf", "Infinity", "1e400", "1e-400",
    "0", "0.0", "00012.50", "1" * 30, "1" * 31, "9" * 48, "9" * 49, "9" * 5_000,
    "9" * 30 + ".5", "9" * 30 + "." + "9" * 18, "9" * 30 + "." + "9" * 40,
    "0." + "0" * 18 + "5", "0." + "0" * 17 + "15", "0." + "0" * 17 + "25",
    "0." + "0" * 40 + "1", "0." + "0" * 400 + "1",
    "2.0000005", "2.0000015", "2.00000150000000001",
    "9223372036854.775806", "9223372036854.775807",
    "9223372036854.7758065", "9223372036854.77580699",
]  # fmt: skip
NAMES = [
    "APE", "eth", "ethereum", "a" * 32, "a" * 33, "-eth", "Eth", "a:b", "a b", "a\u00a0b", "\u00e9",
    "x" * 128, "x" * 129, "x" * 256, "x" * 257, "", " ", "tab\t", "line\n", "\ud800", "0xAB",
    "0XAB", "0xab", ADDRESS, ADDRESS.lower(), ADDRESS.upper(), ADDRESS[:-1], ADDRESS[:-1] + "g",
    "\u0130" * 42, "0x" + "\uff21" * 40, "5VERYBase58", "has-dash_and.dot", "ibc/27:39", "\u212a",
]  # fmt: skip

numbers = st.one_of(
    st.sampled_from(ODD_NUMBERS),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.from_regex(r"[0-9]{1,33}(\.[0-9]{1,33})?", fullmatch=True),
    st.text(alphabet="0123456789.eE+-_ \uff11", max_size=12),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none(),
    st.booleans(),
)
texts = st.one_of(st.sampled_from(NAMES), st.text(max_size=50), st.none(), st.integers())
wholes = st.one_of(
    st.integers(-1, 10), st.sampled_from([2**63 - 1, 2**63, 2**70, True, 1.5, "7", None])
)
timestamps = st.one_of(
    st.integers(RECORD_AT - 10, RECORD_AT + MAX_FUTURE + 10),
    st.sampled_from([
        0, -1, 2**63, 1.5, None, "2023-11-14T22:13:19.500Z", "2023-11-14T22:13:19", "2023-11-14",
        "1969-12-31T23:59:59Z", "2099-01-01T00:00:00Z", "1699999999000", "",
    ]),
)  # fmt: skip
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "chain": texts,
    "tx_hash": texts,
    "log_index": wholes,
    "timestamp": timestamps,
    "token": texts,
    "side": st.sampled_from(["buy", "sell", "BUY", "hold", "", None, 1]),
    "amount": numbers,
    "amount_usd": numbers,
    "price_usd": numbers,
    "removed": st.sampled_from([True, False, None, "true", 1]),
    "symbol": texts,
    "quote": texts,
    "venue": texts,
    "pool": texts,
    "trader": texts,
    "block_number": wholes,
    "block_hash": texts,
    "unknown": texts,
}
changes = st.lists(st.sampled_from(sorted(FIELDS)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)


@settings(max_examples=1_500, deadline=None)
@given(change=changes, dropped=st.sampled_from(["", "", "", *GOOD]), ascii_only=st.booleans())
def test_both_decide_the_same(change: dict[str, Any], dropped: str, ascii_only: bool) -> None:
    event = {name: value for name, value in (GOOD | change).items() if name != dropped}
    text = json.dumps(event, ensure_ascii=ascii_only)
    check(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=300, deadline=None)
@given(value=st.one_of(st.none(), st.binary(max_size=40), st.text(max_size=40).map(str.encode)))
@example(value=b"[" * 100_000)
@example(value=b"null")
@example(value=b'{"chain":"a","chain":1}')
def test_both_refuse_the_same_bytes(value: bytes | None) -> None:
    assert isinstance(check(value), tuple)


@pytest.mark.parametrize("number", ODD_NUMBERS)
@pytest.mark.parametrize("field", ["amount", "amount_usd", "price_usd"])
def test_odd_numbers(field: str, number: str) -> None:
    check(json.dumps(GOOD | {field: number}).encode())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["chain", "token", "tx_hash", "trader", "symbol", "block_hash"])
def test_odd_names(field: str, name: str) -> None:
    check(json.dumps(GOOD | {field: name}).encode())


def test_names_that_join_to_the_same_text_stay_apart() -> None:
    decoder = SwapDecoder(MAX_FUTURE)
    good = decoder.decode(json.dumps(GOOD | {"chain": "a", "token": "b:c"}).encode(), RECORD_AT)
    assert good.token_id == "a:b:c"
    with pytest.raises(DeadLetter):
        decoder.decode(json.dumps(GOOD | {"chain": "a:b", "token": "c"}).encode(), RECORD_AT)


def test_the_memory_of_names_is_bounded() -> None:
    decoder = SwapDecoder(MAX_FUTURE, max_names=10)
    for number in range(100):
        event = json.dumps(GOOD | {"token": f"T{number % 25}"}).encode()
        assert decoder.decode(event, RECORD_AT).token == f"T{number % 25}"
        assert len(decoder._names) <= 10


def test_the_common_event_takes_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([RECORD_AT] * 200)
    events = [record.value for record in swaps(Shape(tokens=5, seed=3), times)]
    decoder = SwapDecoder(MAX_FUTURE)
    expected = [decoder.decode(event, RECORD_AT) for event in events]

    def refuse(*_: object) -> Swap:
        raise AssertionError("the reference was asked")

    monkeypatch.setattr(fast_decode, "decode_swap", refuse)
    assert [decoder.decode(event, RECORD_AT) for event in events] == expected
