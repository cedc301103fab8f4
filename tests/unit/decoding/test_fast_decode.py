"""The compiled passes against the rules: the same swap or error for every input."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aggregator.contracts.event import Swap
from aggregator.contracts.swaps import trader_key
from aggregator.decoding import decoder as decoder_module
from aggregator.decoding.decoder import BatchDecoder, Decoded
from aggregator.decoding.plain.names import Names
from aggregator.decoding.rows import picked
from aggregator.decoding.rules import decode_swap
from aggregator.feed.synthetic import Shape, swaps
from aggregator.runtime.errors import BadMessage
from tests.support.columns import records, swap_at

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
BATCHES = BatchDecoder(MAX_FUTURE, Names(most=16))

Outcome = Swap | tuple[str, str, str]


def by_the_rules(value: bytes | None, *, forwarded: bool = False) -> Outcome:
    try:
        return decode_swap(value, RECORD_AT, MAX_FUTURE, forwarded=forwarded)
    except BadMessage as error:
        return error.reason, error.field, error.detail


def check(value: bytes | None) -> Outcome:
    """Return what the rules say, which the compiled passes must say, too."""
    expected = by_the_rules(value)
    for _ in range(2):
        check_batch([value, value, b"", value], [expected, expected, None, expected])
    return expected


def check_batch(
    values: list[bytes | None],
    expected: list[Outcome | None],
    decoder: BatchDecoder = BATCHES,
    origins: list[tuple[int, int] | None] | None = None,
) -> Decoded:
    """Compare record by record; None expects any refusal."""
    decoded = decoder.decode(records(values, RECORD_AT, 100, origins))
    found, rejected = decoded.swaps, dict(decoded.rejected)
    assert [place for place, one in enumerate(expected) if not isinstance(one, Swap)] == list(
        rejected
    )
    for place, error in rejected.items():
        assert expected[place] in {None, (error.reason, error.field, error.detail)}
        assert found.records["name"][place] == -1
    swaps = [one if isinstance(one, Swap) else None for one in expected]
    assert [swap_at(found, place) for place in range(len(found))] == swaps
    assert found.swaps["trader"].tolist() == [
        (swap and trader_key(swap.trader)) or 0 for swap in swaps
    ]
    assert found.offsets.tolist() == list(range(100, 100 + len(values)))
    assert found.records["recorded"].tolist() == [RECORD_AT] * len(values)
    assert found.records["size"].tolist() == [len(value or b"") for value in values]
    origin_columns = found.records[["origin_partition", "origin_offset"]].tolist()
    assert origin_columns == [one or (-1, -1) for one in origins or [None] * len(values)]
    for field in ("token", "symbol", "verdict", "n"):
        assert not found.swaps[field].any(), "the sinks fill these"
    return decoded


def only_compiled(patch: pytest.MonkeyPatch) -> None:
    """Make the test fail where the rules are asked."""

    def refuse(*_: object, **__: object) -> Swap:
        raise AssertionError("the rules were asked")

    patch.setattr(decoder_module, "decode_swap", refuse)


LABELS = ("block_hash", "symbol", "quote", "quote_token", "venue", "pool", "trader")
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
    "0x2::sui::SUI", "0x0002::sui::SUI", "0X0aB::m::T<0x00C::n::U, u64>", "0x2::a b::C",
    "   ", "\x00\x00", "\x7f", "a\x7fb", "\u200b", "\u202eKOT", "T\u200bOK", "\u00a0\u3000",
    "\u5e01" * 86, "\u5e01" * 256, "\u5e01" * 257, "\U0001f984" * 300, "x" * 5_000, " TOK ",
    ADDRESS + "\u200b",
    "t" * 255 + "\u5e01", "0x2::" + "m" * 244 + "::TOKEN", f"0x{'0' * 63}2::m::{'T' * 245}",
    f"0x{'0' * 63}2::m::{'T' * 253}", f"0x02::m::L<{',0x0a::n::N' * 20}>",
    f"0x02::m::L<0x0a::n::N{',0x0a::n::N' * 25}>",
    "\u0130" * 42, "0x" + "\uff21" * 40, "5VERYBase58", "has-dash_and.dot", "ibc/27:39", "\u212a",
]  # fmt: skip

ODD_TIMES = [
    "2023-11-14T22:13:19.500Z", "2023-11-14T22:13:19", "2023-11-14", "2023-11-14T22:13:19Z",
    "2023-11-14T22:13:19.5Z", "2023-11-14T22:13:19.1239Z", "2023-11-14T22:13:19.999999Z",
    "2023-11-14T22:13:19.1234567Z", "2023-11-14T22:13:19.Z", "2023-11-14T22:13:19,5Z",
    "2023-11-14T22:13:19+00:00", "2023-11-14T22:13:19.25+00:00", "2023-11-14T22:13:19-00:00",
    "2023-11-14T22:13:19+02:00", "2023-11-14T22:13:19z", "2023-11-14 22:13:19Z", "2023-11-14T22Z",
    "20231114T221319Z", "2023-11-14T22:13:19ZZ", "2023-11-14T22:13:19.5", "2023-11-14T22:13:60Z",
    "2023-11-14T22:60:00Z", "2023-11-14T24:00:00Z", "2023-11-31T00:00:00Z", "2023-00-01T00:00:00Z",
    "2023-13-01T00:00:00Z", "2023-01-00T00:00:00Z", "2023-02-29T00:00:00Z", "2020-02-29T00:00:00Z",
    "2000-02-29T23:59:59Z", "1972-03-01T00:00:00Z", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z",
    "0000-01-01T00:00:00Z", "2023-1a-14T22:13:19Z", "2023-11-14T22:13:1/Z", "2023-11-14T22:13:1:Z",
    "2008-12-31T23:59:59.999Z", "2009-01-01T00:00:00Z",
    "2100-02-29T00:00:00Z", "2099-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "",
]  # fmt: skip

EDGES = [
    1_700_000_000, 1_230_767_999_999, 1_230_768_000_000, RECORD_AT + MAX_FUTURE,
    RECORD_AT + MAX_FUTURE + 1, RECORD_AT * 1_000, RECORD_AT * 1_000_000, 10**18, 2**63 - 1,
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
    st.sampled_from([0, -1, 2**63, 1.5, None, "1699999999000", *EDGES, *ODD_TIMES]),
)
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
    "quote_token": texts,
    "venue": texts,
    "pool": texts,
    "trader": texts,
    "block_number": wholes,
    "block_hash": texts,
    "leg": st.sampled_from([0, 1, 2, -1, 10, 1.0, True, None, "1", 2**70]),
    "reserve_token": numbers,
    "reserve_quote": numbers,
    "unknown": texts,
    "reserve_quotf": texts,
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


@settings(max_examples=400, deadline=None)
@given(
    sent=st.lists(
        st.tuples(
            st.one_of(st.none(), changes),
            st.sampled_from([{}, {}, {"leg": 1, "token": ADDRESS}, {"removed": True}]),
            st.one_of(st.none(), st.tuples(st.integers(0, 99), st.integers(0, 2**40))),
        ),
        max_size=12,
    )
)
def test_a_batch_of_anything_is_decoded_record_by_record(
    sent: list[tuple[dict[str, Any] | None, dict[str, Any], tuple[int, int] | None]],
) -> None:
    """Plain and odd events, both legs, retractions, forwarded and bad records side by side."""
    values = [
        None if change is None else json.dumps(GOOD | change | kind, ensure_ascii=False)
        for change, kind, _ in sent
    ]
    encoded = [value and value.encode("utf-8", "surrogatepass") for value in values]
    origins = [origin for *_, origin in sent]
    expected: list[Outcome | None] = [
        by_the_rules(value, forwarded=origin is not None)
        for value, origin in zip(encoded, origins, strict=True)
    ]
    for _ in range(2):
        check_batch(encoded, expected, origins=origins)


@settings(max_examples=300, deadline=None)
@given(value=st.one_of(st.none(), st.binary(max_size=40), st.text(max_size=40).map(str.encode)))
@example(value=b"[" * 100_000)
@example(value=b"null")
@example(value=b'{"chain":"a","chain":1}')
def test_both_refuse_the_same_bytes(value: bytes | None) -> None:
    assert isinstance(check(value), tuple)


@pytest.mark.parametrize("number", ODD_NUMBERS)
@pytest.mark.parametrize(
    "field", ["amount", "amount_usd", "price_usd", "reserve_token", "reserve_quote"]
)
def test_odd_numbers(field: str, number: str) -> None:
    check(json.dumps(GOOD | {field: number}).encode())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "field",
    ["chain", "token", "tx_hash", *LABELS],
)
def test_odd_names(field: str, name: str) -> None:
    for ascii_only in (True, False):
        text = json.dumps(GOOD | {field: name}, ensure_ascii=ascii_only)
        check(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("time", [*EDGES, *ODD_TIMES])
@pytest.mark.parametrize("removed", [False, True])
def test_odd_times(time: str | int, removed: bool) -> None:
    check(json.dumps(GOOD | {"timestamp": time, "removed": removed}).encode())


@settings(max_examples=500, deadline=None)
@given(
    time=st.datetimes(datetime(2009, 1, 1), datetime(2023, 11, 14, 22)),
    unit=st.sampled_from(["seconds", "milliseconds", "microseconds"]),
    zone=st.sampled_from(["Z", "+00:00"]),
)
def test_utc_times_take_the_compiled_way(time: datetime, unit: str, zone: str) -> None:
    value = json.dumps(GOOD | {"timestamp": time.isoformat(timespec=unit) + zone}).encode()
    assert isinstance(check(value), Swap)
    with pytest.MonkeyPatch.context() as patch:
        only_compiled(patch)
        assert not BATCHES.decode(records([value], RECORD_AT)).rejected


invisible = st.characters(categories=["Cc", "Cf", "Zs", "Zl", "Zp"])
labels = st.text(st.one_of(invisible, st.characters(codec="utf-8")), max_size=300)


@settings(max_examples=1_000, deadline=None)
@given(field=st.sampled_from(LABELS), label=labels)
def test_labels_are_the_same_in_every_decoder(field: str, label: str) -> None:
    swap = check(json.dumps(GOOD | {field: label}, ensure_ascii=False).encode())
    assert isinstance(swap, Swap), "a label does not refuse a swap"
    kept = getattr(swap, field)
    assert kept is None or (0 < len(kept) <= 256 and kept.strip())


@pytest.mark.parametrize(
    ("symbol", "kept"),
    [("", None), ("   ", None), (None, None), ("APE", "APE"), ("\u5e01", "\u5e01")],
)
def test_blank_and_common_labels_take_the_compiled_way(
    monkeypatch: pytest.MonkeyPatch, symbol: str | None, kept: str | None
) -> None:
    change = {"symbol": symbol, "block_hash": " "} | dict.fromkeys(LABELS[2:], "")
    value = json.dumps(GOOD | change, ensure_ascii=False).encode()
    decoder = BatchDecoder(MAX_FUTURE)
    decoder.decode(records([value], RECORD_AT))
    only_compiled(monkeypatch)
    found = decoder.decode(records([value], RECORD_AT)).swaps
    assert found.swaps["trader"].tolist() == found.records["block_check"].tolist() == [0]
    swap = swap_at(found, 0)
    assert swap is not None
    assert (swap.symbol, swap.block_hash, swap.quote_token) == (kept, None, None)


def test_names_that_join_to_the_same_text_stay_apart() -> None:
    good = check(json.dumps(GOOD | {"chain": "a", "token": "b:c"}).encode())
    assert isinstance(good, Swap)
    assert good.token_id == "a:b:c"
    assert isinstance(check(json.dumps(GOOD | {"chain": "a:b", "token": "c"}).encode()), tuple)


def test_the_common_event_takes_the_compiled_way(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([RECORD_AT] * 200)
    values: list[bytes | None] = [record.value for record in swaps(Shape(tokens=5, seed=3), times)]
    values += [FULL, FULL.replace(b'"leg": 1', b'"leg": 0'), FULL.replace(b"false", b"true")]
    expected: list[Outcome | None] = [by_the_rules(event) for event in values]
    decoder = BatchDecoder(MAX_FUTURE)
    check_batch(values, expected, decoder)
    only_compiled(monkeypatch)
    check_batch(values, expected, decoder)


PLAIN = json.dumps(
    GOOD
    | {
        "tx_hash": "0x" + "9aF3" * 16,
        "price_usd": "13.4",
        "removed": False,
        "symbol": "APE",
        "quote": None,
        "trader": ADDRESS,
        "unknown": 1.5,
        "block_hash": "0x" + "77C" * 20,
    }
).encode()
FULL = json.dumps(
    json.loads(PLAIN)
    | {
        "token": ADDRESS,
        "quote": "USDC",
        "quote_token": ADDRESS,
        "venue": "uniswap-v3",
        "pool": ADDRESS,
        "block_number": 18_000_000,
        "leg": 1,
        "reserve_token": "12345.678901234567890123",
        "reserve_quote": 0.25,
    }
).encode()


@settings(max_examples=3_000, deadline=None)
@given(
    whole=st.sampled_from([PLAIN, FULL]),
    at=st.integers(0, len(FULL)),
    cut=st.integers(0, 3),
    put=st.one_of(
        st.binary(max_size=2),
        st.text(alphabet='{}[]",:0123456789.eE+-\\ \n\t\u00e9abtfnx', max_size=3).map(str.encode),
    ),
)
def test_damaged_bytes_are_read_as_the_rules_read_them(
    whole: bytes, at: int, cut: int, put: bytes
) -> None:
    check(whole[:at] + put + whole[at + cut :])


@pytest.mark.parametrize(
    "text",
    [
        b"{}", b"{", b"}", b'{"', b'{"chain', b"   ", b'{"chain":}', b'{"chain":"a",}', b'{,}',
        PLAIN + b" ", b"  " + PLAIN, PLAIN + b"x", PLAIN + b"\n", PLAIN[:-1], PLAIN[:-1] + b",}",
        PLAIN.replace(b": ", b"  :  "), PLAIN.replace(b'"APE"', b'"\xc3\xa9\xe5\xb8\x81"'),
        PLAIN.replace(b'"APE"', b'"\xc3"'), PLAIN.replace(b"unknown", b"\xc3\xa9"),
        PLAIN.replace(b"unknown", b"\xc3"), PLAIN.replace(b"unknown", b"chain"),
        PLAIN.replace(b"1.5", b"[1]"), PLAIN.replace(b"1.5", b"01"), PLAIN.replace(b"1.5", b"1e5"),
        PLAIN.replace(b"1.5", b"-1"), PLAIN.replace(b"false", b"true"),
        PLAIN.replace(b"false", b"False"), PLAIN.replace(b"null", b"nul"),
        PLAIN.replace(b'"2"', b"2"), PLAIN.replace(b'"2"', b"2.50"), PLAIN.replace(b'"2"', b"02"),
    ],
)  # fmt: skip
def test_the_edges_of_what_is_plain(text: bytes) -> None:
    check(text)


@settings(max_examples=2_000, deadline=None)
@given(
    whole=st.from_regex(r"(0|[1-9][0-9]{0,28})", fullmatch=True),
    fraction=st.from_regex(r"(\.[0-9]{1,18})?", fullmatch=True),
)
def test_prices_are_the_nearest_float(whole: str, fraction: str) -> None:
    check(json.dumps(GOOD | {"price_usd": whole + fraction}).encode())
    check(json.dumps(GOOD | {"reserve_token": whole + fraction}).encode())
    check(json.dumps(GOOD | {"amount_usd": "1", "amount": (whole + fraction)}).encode())


def test_halfway_between_two_floats() -> None:
    for bits in range(53, 63):
        for near in (-1, 0, 1):
            number = (2**53 + 1) * 2 ** (bits - 53) + near
            for text in (str(number), f"{number}.0", f"{number}.{'0' * 20}1", f"0.{number}"):
                check(json.dumps(GOOD | {"price_usd": text}).encode())


def test_a_batch_of_many_kinds() -> None:
    times = iter([RECORD_AT] * 300)
    values: list[bytes | None] = [record.value for record in swaps(Shape(tokens=40, seed=5), times)]
    values[10], values[20], values[30] = None, b"no", PLAIN
    values[40] = json.dumps(GOOD | {"removed": True}).encode()
    values[50] = json.dumps(GOOD | {"symbol": "\u5e01", "amount_usd": None}).encode()
    expected = [by_the_rules(value) for value in values]
    decoder = BatchDecoder(MAX_FUTURE)
    for _ in range(2):
        decoded = check_batch(values, expected, decoder)
    assert [place for place, _ in decoded.rejected] == [10, 20]


def test_no_record_is_a_batch_too() -> None:
    check_batch([], [])


def test_the_memory_of_names_is_bounded_in_batches() -> None:
    names = Names(most=10)
    decoder = BatchDecoder(MAX_FUTURE, names)
    for number in range(100):
        value = json.dumps(GOOD | {"token": f"T{number % 25}"}).encode()
        check_batch([value], [by_the_rules(value)], decoder)
        assert len(names.accepted) <= 10


def test_a_batch_keeps_its_names_when_the_decoder_forgets() -> None:
    decoder = BatchDecoder(MAX_FUTURE, Names(most=2))
    first = decoder.decode(records([json.dumps(GOOD).encode()], RECORD_AT)).swaps
    for number in range(5):
        value = json.dumps(GOOD | {"token": f"T{number}"}).encode()
        decoder.decode(records([value], RECORD_AT))
    swap = swap_at(first, 0)
    assert swap is not None
    assert swap.token_id == "ethereum:APE"


def test_names_that_join_to_the_same_text_stay_apart_in_batches() -> None:
    decoder = BatchDecoder(MAX_FUTURE)
    for change in (
        {"chain": "a", "token": "b:c"},
        {"chain": "a:b", "token": "c"},
        {"token": "APE", "symbol": ""},
        {"token": "APE"},
        {"token": "A", "symbol": "PE"},
    ):
        value = json.dumps(GOOD | change).encode()
        for _ in range(2):
            check_batch([value], [by_the_rules(value)], decoder)


def test_a_retraction_is_never_too_late_for_its_record() -> None:
    for timestamp in (RECORD_AT + MAX_FUTURE + 1, RECORD_AT * 1_000, 2**63 - 1):
        value = json.dumps(GOOD | {"removed": True, "timestamp": timestamp}).encode()
        swap = check(value)
        assert isinstance(swap, Swap)
        assert swap.timestamp == RECORD_AT + MAX_FUTURE


def test_a_forwarded_record_is_not_judged_for_its_future_again() -> None:
    early = json.dumps(GOOD | {"timestamp": RECORD_AT + MAX_FUTURE + 1}).encode()
    gone = json.dumps(GOOD | {"timestamp": 10**17, "removed": True}).encode()
    values: list[bytes | None] = [early, early, PLAIN, gone, None, PLAIN]
    origins = [None, (3, 2**40), (0, 7), (1, 9), (2, 8), None]
    expected: list[Outcome | None] = [
        by_the_rules(value, forwarded=origin is not None)
        for value, origin in zip(values, origins, strict=True)
    ]
    assert [isinstance(one, Swap) for one in expected] == [False, True, True, True, False, True]
    for _ in range(2):
        check_batch(values, expected, origins=origins)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 127, 128, 190, 254, 255, 256])
@pytest.mark.parametrize("tx_hash", ["a", "0x" + "Ab" * 32, "h" * 128])
def test_identities_of_every_length_are_hashed_alike(
    monkeypatch: pytest.MonkeyPatch, length: int, tx_hash: str
) -> None:
    """Around the 128 bytes of a block of BLAKE2b."""
    change = {"token": "t" * length, "tx_hash": tx_hash, "trader": "r" * length}
    change |= {"block_hash": "0x" + "B" * max(0, length - 2), "log_index": 10**17}
    value = json.dumps(GOOD | change).encode()
    decoder, expected = BatchDecoder(MAX_FUTURE), by_the_rules(value)
    assert isinstance(expected, Swap)
    check_batch([value], [expected], decoder)
    only_compiled(monkeypatch)
    check_batch([value], [expected], decoder)


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=6), min_size=1, max_size=4
    ),
    forgets=st.booleans(),
)
def test_picked_records_keep_their_columns_and_texts(
    parts: list[list[tuple[int, bool]]], forgets: bool
) -> None:
    decoder = BatchDecoder(MAX_FUTURE, Names(most=2 if forgets else 64))
    batches, expected = [], []
    for part in parts:
        values = [
            json.dumps(GOOD | {"token": f"T{number}", "symbol": "\u5e01" * number}).encode()
            if number
            else None
            for number, _ in part
        ]
        found = decoder.decode(records(values, RECORD_AT)).swaps
        places = np.flatnonzero([taken for _, taken in part])
        batches.append((found, places))
        expected += [(swap_at(found, place), found.offsets[place]) for place in places.tolist()]
    taken = picked(batches)
    assert [
        (swap_at(taken, place), taken.offsets[place]) for place in range(len(taken))
    ] == expected
    assert len(taken.text) == sum(
        len(text.encode()) for place in range(len(taken)) for text in taken.texts(place) if text
    )
