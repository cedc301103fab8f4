"""Request ids and trace ids, which tie log lines to a request and to its trace.

The trace id comes from the caller's `traceparent` (W3C Trace Context), the request id from its
`X-Request-ID` if that is well-formed; otherwise they are generated here. Every log line written
while the request is answered contains both.
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
    """Return the ids for the headers' texts, "" if absent. A malformed text counts as absent."""
    match = _TRACEPARENT.match(traceparent)
    return Correlation(
        request_id if _REQUEST_ID.match(request_id) else secrets.token_hex(8),
        match[1] if match is not None else secrets.token_hex(16),
    )
