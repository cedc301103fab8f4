"""The body of an ingest request: unpacked within its limits and split into events. Pure.

An event keeps the client's bytes. NDJSON is one event a line (github.com/ndjson/ndjson-spec); JSON
is one event, or an array of them.
"""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple, NoReturn

import msgspec

from api.problem import Problem

MOST_LINES: Final = 5_000
MOST_RATIO: Final = 100
"""Swaps shrink to a fifth or a tenth; what unpacks to 100 times its size is no list of swaps."""
NDJSON: Final = "application/x-ndjson"
JSON: Final = "application/json"

_NDJSON_NAMES: Final = frozenset({NDJSON, "application/ndjson", "application/jsonl"})
# Any ratio is allowed up to this size.
_FREE_BYTES: Final = 65_536
# gzip allows concatenated members (RFC 1952, 2.2); each costs a copy of the bytes that follow it.
_MOST_MEMBERS: Final = 64
_GZIP_FORMAT: Final = 31
# An event has about 20 members. A larger count is refused before an object is made for each value.
_MOST_COMMAS: Final = 50 * MOST_LINES

_array: Final = msgspec.json.Decoder(list[msgspec.Raw])
_object: Final = msgspec.json.Decoder(msgspec.Raw)


class SentEvents(NamedTuple):
    """The events of a body: `values` are their bytes, `lines` their places, counted from 1.

    A place is a line of NDJSON, or an element of an array.
    """

    values: list[bytes]
    lines: list[int]


def is_packed(encoding: str) -> bool:
    """Return whether a Content-Encoding is gzip. Raises Problem 415 for any other but identity."""
    coding = encoding.strip().lower()
    if coding not in {"", "identity", "gzip", "x-gzip"}:
        raise Problem(
            415,
            "encoding_unsupported",
            "Content-Encoding: send the body as it is, or with gzip.",
            headers={"Accept-Encoding": "gzip"},
        )
    return coding in {"gzip", "x-gzip"}


def unpacked(packed: bytes, most_bytes: int) -> bytes:
    """Return the content of a gzip body, of at most `most_bytes` and MOST_RATIO times its size.

    No more than that is ever unpacked. Raises Problem 413 for a larger content, 400 for damaged
    data.
    """
    limit = min(most_bytes, max(_FREE_BYTES, MOST_RATIO * len(packed)))
    parts: list[bytes] = []
    size, rest = 0, packed
    while rest:
        if len(parts) == _MOST_MEMBERS:
            _invalid(f"the gzip data has more than {_MOST_MEMBERS} members")
        member = zlib.decompressobj(wbits=_GZIP_FORMAT)
        try:
            parts.append(member.decompress(rest, limit - size + 1))
        except zlib.error:
            _invalid("the gzip data is damaged")
        size += len(parts[-1])
        if size > limit:
            raise Problem(
                413,
                "request_too_large",
                f"The body unpacks to more than {limit:,} bytes: send fewer swaps in one request.",
            )
        if not member.eof:
            _invalid("the gzip data ends too early")
        rest = member.unused_data
    return b"".join(parts)


def events_of(body: bytes, content_type: str) -> SentEvents:
    """Split a body into its events; blank lines are skipped.

    Raises Problem 415 for another Content-Type, 413 for more than MOST_LINES events and 400 for a
    body that is not JSON or holds no event. A line of NDJSON that is not JSON is still an event:
    the rules refuse it.
    """
    events = _lines(body) if _is_ndjson(content_type) else _elements(body)
    if not events.values:
        _invalid("it holds no event")
    return events


def _is_ndjson(content_type: str) -> bool:
    media, *parameters = (part.strip().lower() for part in content_type.split(";"))
    named = dict(each.partition("=")[::2] for each in parameters)
    charset = named.get("charset", "utf-8").strip('"')
    if (media not in _NDJSON_NAMES and media != JSON) or charset not in {"utf-8", "utf8"}:
        raise Problem(
            415,
            "media_type_unsupported",
            f"Content-Type: send {NDJSON} (an event a line) or {JSON}, in UTF-8.",
            headers={"Accept": f"{NDJSON}, {JSON}"},
        )
    return media in _NDJSON_NAMES


def _lines(body: bytes) -> SentEvents:
    # Count before splitting: a body of line breaks would become a list of millions of texts.
    if body.count(b"\n") > MOST_LINES:
        _too_many()
    found = [
        (line, value) for line, each in enumerate(body.split(b"\n"), 1) if (value := each.strip())
    ]
    if len(found) > MOST_LINES:
        _too_many()
    return SentEvents([value for _, value in found], [line for line, _ in found])


def _elements(body: bytes) -> SentEvents:
    if body.count(b",") > _MOST_COMMAS:
        _too_many()
    is_array = body.lstrip()[:1] == b"["
    try:
        values = _array.decode(body) if is_array else [_object.decode(body)]
    except (msgspec.DecodeError, RecursionError) as error:
        hint = f" (for an event a line send {NDJSON})" if b"\n" in body else ""
        _invalid(f"{error}{hint}")
    if len(values) > MOST_LINES:
        _too_many()
    return SentEvents([bytes(value) for value in values], list(range(1, len(values) + 1)))


def _too_many() -> NoReturn:
    raise Problem(
        413, "request_too_large", f"At most {MOST_LINES:,} swaps in one request: send several."
    )


def _invalid(why: str) -> NoReturn:
    raise Problem(400, "body_invalid", f"The body cannot be read: {why}.")
