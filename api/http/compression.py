"""gzip compression of answers, for clients that accept it.

No answer mixes a secret with text that an attacker chooses: there are no cookies here and the token
is not echoed. So the length of an answer reveals nothing (BREACH). The ETag of a compressed answer
is weak, because its bytes differ from those of the plain one (RFC 9110, 8.8.3).
"""

from __future__ import annotations

import asyncio
import gzip
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

WORTH_BYTES: Final = 1_000
# Larger answers would block the event loop for too long; zlib releases the GIL.
_IN_A_THREAD_BYTES: Final = 65_536
_LEVEL: Final = 1


async def compress(request: HttpRequest, response: HttpResponse) -> None:
    """Compress the answer in place if it is large enough and the client accepts gzip."""
    content = response.content
    if len(content) < WORTH_BYTES or "Content-Encoding" in response.headers:
        return
    patch_vary_headers(response, ("Accept-Encoding",))
    if not takes_gzip(request.META.get("HTTP_ACCEPT_ENCODING", "")):
        return
    if len(content) < _IN_A_THREAD_BYTES:
        compressed = _compressed(content)
    else:
        compressed = await asyncio.to_thread(_compressed, content)
    response.content = compressed
    response.headers["Content-Encoding"] = "gzip"
    etag = response.headers.get("ETag", "")
    if etag.startswith('"'):
        response.headers["ETag"] = f"W/{etag}"


def takes_gzip(accepted: str) -> bool:
    """Return whether an Accept-Encoding has gzip with a weight above 0 (RFC 9110, 12.5.3)."""
    for each in accepted.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() in {"gzip", "*"}:
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, _LEVEL, mtime=0)
