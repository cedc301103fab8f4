"""gzip for answers that are worth it, where the client takes it.

No answer mixes a secret with what a stranger chose (there are no cookies here and the token is not
echoed), so its length gives nothing away (BREACH). The tag of a compressed answer is weak, because
its bytes are not those of the plain one (RFC 9110, 8.8.3).
"""

from __future__ import annotations

import asyncio
import gzip
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

WORTH_BYTES: Final = 1_000
# More takes long enough to hold up the event loop; zlib lets go of the interpreter's lock.
_IN_A_THREAD_BYTES: Final = 65_536
_LEVEL: Final = 1


async def compress(request: HttpRequest, response: HttpResponse) -> None:
    """Compress the answer in place, if that may be and is worth it."""
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
    """Whether an Accept-Encoding names gzip with a weight above 0 (RFC 9110, 12.5.3)."""
    for each in accepted.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() in {"gzip", "*"}:
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, _LEVEL, mtime=0)
