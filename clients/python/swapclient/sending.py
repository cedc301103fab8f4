"""Sends swaps to the service over HTTP, in batches, each until it is acknowledged.

`batches` and `then` decide what to send and what an answer means. `ingest` does the requests, on a
thread with one connection of the standard library.
"""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from swapclient.backoff import Backoff
from swapclient.errors import IngestRefused, IngestUnavailable

SWAPS_A_REQUEST: Final = 1_000
# Below the service's default limit of a body.
BYTES_A_REQUEST: Final = 1_000_000
PATH: Final = "/api/ingest/swaps"

_PACKED_FROM_BYTES: Final = 1_000
_TIMEOUT_S: Final = 30.0
_WAIT_AND_REPEAT: Final = frozenset({408, 429, 500, 502, 503, 504})

log = logging.getLogger("swapclient")

Token = str | Callable[[], Awaitable[str]]
Event = Mapping[str, Any] | bytes


class RejectedSwap(msgspec.Struct, frozen=True):
    """A swap that the service refused; correct it before sending it again.

    `index` is its place in what was given to `ingest`, from 0. `reason` is stable, such as `rule`
    or `future`; `field` is the field at fault.
    """

    index: int
    reason: str
    field: str
    message: str


class IngestReport(msgspec.Struct):
    """What became of the swaps: each is in Kafka (`accepted`) or refused.

    `errors` has the refused ones that the service listed, at most 100 of a request.
    """

    accepted: int = 0
    rejected: int = 0
    errors: list[RejectedSwap] = msgspec.field(default_factory=list)


class SwapBatch(NamedTuple):
    """The body of one request; `first` is the index of its first swap."""

    first: int
    body: bytes


class Answer(NamedTuple):
    """An answer of the service: status, Retry-After in seconds, and the document."""

    status: int
    retry_after_s: float
    document: Mapping[str, Any]


class Then(Enum):
    """What to do after an answer."""

    GO_ON = "go on"
    REPEAT = "wait and send the whole body again"
    RENEW = "send it again with a fresh token"
    STOP = "stop"


def batches(
    swaps: Iterable[Event], most_swaps: int = SWAPS_A_REQUEST, most_bytes: int = BYTES_A_REQUEST
) -> Iterator[SwapBatch]:
    """Yield bodies of NDJSON; a swap given as bytes is sent as it is. Raises ValueError.

    Bytes must be one line.
    """
    first, size = 0, 0
    lines: list[bytes] = []
    for index, swap in enumerate(swaps):
        line = swap if isinstance(swap, bytes) else json.dumps(dict(swap)).encode()
        if b"\n" in (line := line.strip()):
            raise ValueError(f"swap {index}: give JSON without line breaks")
        if lines and (len(lines) == most_swaps or size + len(line) > most_bytes):
            yield SwapBatch(first, b"\n".join(lines))
            first, size, lines = index, 0, []
        lines.append(line)
        size += len(line) + 1
    if lines:
        yield SwapBatch(first, b"\n".join(lines))


def then(answer: Answer, renewable: bool) -> Then:
    """Return what to do after an answer; `renewable`: a fresh token may be asked for once."""
    if answer.status in _WAIT_AND_REPEAT:
        return Then.REPEAT
    if answer.status == 401 and renewable:
        return Then.RENEW
    if "rejected" in answer.document:
        return Then.GO_ON
    return Then.STOP


def note(report: IngestReport, batch: SwapBatch, document: Mapping[str, Any]) -> None:
    """Add the verdicts of an answer to the report."""
    report.accepted += document["accepted"]
    report.rejected += document["rejected"]
    report.errors += [
        RejectedSwap(batch.first + each["line"] - 1, each["reason"], each["field"], each["message"])
        for each in document["errors"]
    ]


async def ingest(
    url: str,
    token: Token,
    swaps: Iterable[Event],
    *,
    within_s: float | None = None,
    backoff: Backoff | None = None,
    most_swaps: int = SWAPS_A_REQUEST,
) -> IngestReport:
    """Send swaps in order and return once Kafka has acknowledged each good one.

    `url` is the service's address; `token` a JWT with the scope `swaps:write`, or an async function
    that returns a fresh one; a swap is a mapping in the fields of the event, or its JSON as bytes.
    A body that is not acknowledged (503, 429, a lost connection) is sent again as a whole, after
    the service's Retry-After: a repeat of a swap is not counted.

    Raises IngestUnavailable if a body is not acknowledged for `within_s` seconds (None: tries on),
    and IngestRefused if the service refuses the request itself. Both carry the report so far; give
    the swaps of the failed batch again.
    """
    sender = _Sender(url, token, backoff or Backoff())
    report = IngestReport()
    try:
        for batch in batches(swaps, most_swaps):
            await sender.deliver(batch, report, within_s)
    finally:
        sender.close()
    return report


class _Sender:
    """One connection, used by one batch at a time."""

    def __init__(self, url: str, token: Token, backoff: Backoff) -> None:
        parts = urlsplit(url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        if parts.scheme not in kinds or not parts.netloc:
            raise ValueError("url: give one such as https://host")
        self._connection = kinds[parts.scheme](parts.netloc, timeout=_TIMEOUT_S)
        self._path = parts.path.rstrip("/") + PATH
        self._given = token
        self._token = token if isinstance(token, str) else ""
        self._backoff = backoff
        self._draw = random.random

    async def deliver(self, batch: SwapBatch, report: IngestReport, within_s: float | None) -> None:
        begun, attempt, renewable = time.monotonic(), 0, not isinstance(self._given, str)
        while True:
            if not self._token and not isinstance(self._given, str):
                self._token = await self._given()
            try:
                answer = await asyncio.to_thread(self._request, batch.body)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                answer = Answer(503, 0.0, {"code": "connection_lost", "detail": repr(error)})
            what = then(answer, renewable)
            if what is Then.GO_ON:
                note(report, batch, answer.document)
                return
            if what is Then.STOP:
                code, detail = _said(answer)
                raise IngestRefused(answer.status, code, detail, report, batch.first)
            if what is Then.RENEW:
                self._token, renewable = "", False
                continue
            code, detail = _said(answer)
            pause_s = answer.retry_after_s + self._backoff.wait_s(attempt, self._draw())
            if within_s is not None and time.monotonic() + pause_s > begun + within_s:
                raise IngestUnavailable(code, detail, report, batch.first)
            log.warning("%s, sending again in %.1f s: %s", code, pause_s, detail)
            await asyncio.sleep(pause_s)
            attempt += 1

    def _request(self, body: bytes) -> Answer:
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/x-ndjson",
        }
        if len(body) >= _PACKED_FROM_BYTES:
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
        self._connection.request("POST", self._path, body, headers)
        response = self._connection.getresponse()
        content = response.read()
        retry_after = response.headers.get("Retry-After", "")
        return Answer(
            response.status,
            float(retry_after) if retry_after.isdigit() else 0.0,
            _document(content),
        )

    def close(self) -> None:
        self._connection.close()


def _document(content: bytes) -> Mapping[str, Any]:
    """Return the answer's object; {} for what a proxy answers in place of the service."""
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _said(answer: Answer) -> tuple[str, str]:
    document = answer.document
    return str(document.get("code", answer.status)), str(document.get("detail", ""))
