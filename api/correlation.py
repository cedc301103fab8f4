"""What ties a request to its log lines: an id of its own, and the trace that it is part of.

The trace's id comes from the caller's `traceparent` (W3C Trace Context), the request's from its
`X-Request-ID` where that looks like one; else both are made here. Both stand in every log line that
is written while the request is answered.
"""

from __future__ import annotations

import re
import secrets
from typing import Final, NamedTuple

HEADER: Final = "X-Request-ID"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-"
)


class Correlation(NamedTuple):
    """`trace_id` is 32 hexadecimal digits."""

    request_id: str
    trace_id: str


def correlation_of(request_id: str, traceparent: str) -> Correlation:
    """Of the headers' texts, "" where they are absent. What is malformed counts as absent."""
    match = _TRACEPARENT.match(traceparent)
    return Correlation(
        request_id if _REQUEST_ID.match(request_id) else secrets.token_hex(8),
        match[1] if match is not None else secrets.token_hex(16),
    )
