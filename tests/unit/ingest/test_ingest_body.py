"""Bodies of ingest: what is split how, and what is refused with which problem."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.ingest.body import MOST_LINES, SentEvents, events_of, is_packed, unpacked
from api.problem import Problem

LIMIT = 2_621_440
NDJSON = "application/x-ndjson"
JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "media", "values", "lines"),
    [
        pytest.param(b'{"a":1}\n{"b":2}\n', NDJSON, [b'{"a":1}', b'{"b":2}'], [1, 2], id="lines"),
        pytest.param(b'{"a":1}', NDJSON, [b'{"a":1}'], [1], id="no line break at the end"),
        pytest.param(b'\r\n {"a":1} \r\n\nx', NDJSON, [b'{"a":1}', b"x"], [2, 4], id="blank lines"),
        pytest.param(b'[{"a": 1}, 7]', JSON, [b'{"a": 1}', b"7"], [1, 2], id="an array"),
        pytest.param(b' {"a":\n1} ', JSON, [b'{"a":\n1}'], [1], id="one object, whole"),
        pytest.param(b"{}", "Application/JSON; charset=UTF-8", [b"{}"], [1], id="charset"),
        pytest.param(b"{}", 'application/jsonl;charset="utf-8"', [b"{}"], [1], id="other name"),
    ],
)
def test_an_event_keeps_its_bytes_and_its_place(
    body: bytes, media: str, values: list[bytes], lines: list[int]
) -> None:
    assert events_of(body, media) == SentEvents(values, lines)


@pytest.mark.parametrize(
    ("body", "media", "status", "code", "said"),
    [
        pytest.param(b"", NDJSON, 400, "body_invalid", "no event", id="empty"),
        pytest.param(b"\n \n", NDJSON, 400, "body_invalid", "no event", id="blank"),
        pytest.param(b"[]", JSON, 400, "body_invalid", "no event", id="empty array"),
        pytest.param(b"", JSON, 400, "body_invalid", "cannot be read", id="empty JSON"),
        pytest.param(b"{}\n{}", JSON, 400, "body_invalid", NDJSON, id="lines sent as JSON"),
        pytest.param(b"[" * 100_000, JSON, 400, "body_invalid", "recursion", id="deep"),
        pytest.param(b"\n" * 10_000, NDJSON, 413, "request_too_large", "5,000", id="line breaks"),
        pytest.param(b"1\n" * 5_001, NDJSON, 413, "request_too_large", "5,000", id="lines"),
        pytest.param(
            b"\n".join([b"1"] * 5_001), NDJSON, 413, "request_too_large", "5,000", id="one more"
        ),
        pytest.param(
            b"[" + b"0," * 5_000 + b"0]", JSON, 413, "request_too_large", "5,000", id="elements"
        ),
        pytest.param(
            b"[" + b"0," * 1_000_000 + b"0]", JSON, 413, "request_too_large", "5,000", id="zeros"
        ),
        pytest.param(b"{}", "", 415, "media_type_unsupported", NDJSON, id="no type"),
        pytest.param(b"{}", "text/csv", 415, "media_type_unsupported", JSON, id="csv"),
        pytest.param(
            b"{}", "application/json; charset=latin1", 415, "media_type_unsupported", "UTF-8",
            id="charset",
        ),
    ],
)  # fmt: skip
def test_a_body_is_refused_with_what_to_send(
    body: bytes, media: str, status: int, code: str, said: str
) -> None:
    with pytest.raises(Problem) as refused:
        events_of(body, media)
    assert (refused.value.status, refused.value.code) == (status, code)
    assert said in refused.value.detail


def test_so_many_lines_are_taken() -> None:
    assert len(events_of(b"1\n" * MOST_LINES, NDJSON).values) == MOST_LINES


@pytest.mark.parametrize(
    ("encoding", "packed"), [("", False), ("identity", False), ("gzip", True), ("X-Gzip ", True)]
)
def test_encodings(encoding: str, packed: bool) -> None:
    assert is_packed(encoding) is packed


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "deflate"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(Problem) as refused:
        is_packed(encoding)
    assert (refused.value.status, refused.value.code) == (415, "encoding_unsupported")
    assert refused.value.headers == {"Accept-Encoding": "gzip"}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(max_size=2_000), max_size=3))
def test_unpacking_undoes_packing(parts: list[bytes]) -> None:
    """Concatenated members are one content (RFC 1952, 2.2)."""
    assert unpacked(b"".join(map(gzip.compress, parts)), LIMIT) == b"".join(parts)


@pytest.mark.parametrize(
    ("packed", "status", "said"),
    [
        pytest.param(b"plain", 400, "damaged", id="not gzip"),
        pytest.param(gzip.compress(b"x" * 99)[:-4], 400, "ends too early", id="cut"),
        pytest.param(gzip.compress(b"x")[:-8] + b"12345678", 400, "damaged", id="checksum"),
        pytest.param(gzip.compress(b"x") + b"tail", 400, "damaged", id="a tail"),
        pytest.param(gzip.compress(b"") * 65, 400, "64 members", id="members"),
        pytest.param(gzip.compress(b"0" * 4_000_000), 413, "unpacks to more", id="a bomb"),
    ],
)
def test_damaged_and_hostile_gzip(packed: bytes, status: int, said: str) -> None:
    with pytest.raises(Problem) as refused:
        unpacked(packed, LIMIT)
    assert refused.value.status == status
    assert said in refused.value.detail


def test_a_bomb_is_refused_in_bounded_memory() -> None:
    bomb = gzip.compress(bytes(500_000_000), compresslevel=1)
    tracemalloc.start()
    try:
        with pytest.raises(Problem, match="unpacks to more than 2,621,440"):
            unpacked(bomb, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT, f"{len(bomb):,} bytes took {peak:,}"


@pytest.mark.parametrize(("size", "fits"), [(LIMIT, True), (LIMIT + 1, False)])
def test_the_limit_is_exact(size: int, fits: bool) -> None:
    # Every second byte is random enough that the ratio does not decide.
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    packed = b"".join(
        gzip.compress(content[at : at + 50_000], 0) for at in range(0, len(content), 50_000)
    )
    if fits:
        assert unpacked(packed, LIMIT) == content
    else:
        with pytest.raises(Problem, match="request_too_large"):
            unpacked(packed, LIMIT)
