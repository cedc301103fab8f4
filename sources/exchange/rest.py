"""Requests to a venue's REST interface: one at a time at the venue's pace, errors by their use."""

from __future__ import annotations

import asyncio
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol
from urllib.parse import urlsplit

from aggregator.runtime.errors import BadMessage, ConfigError, Retry

_TIMEOUT_S: Final = 10.0
_LARGEST: Final = 64 << 20
_LONGEST_PAUSE_S: Final = 600.0
# Too many requests; 418 is Binance's word for "banned for a while".
_TOO_MANY: Final = frozenset({418, 429})
_TEMPORARY: Final = frozenset({408, 425})


class Rest(Protocol):
    """Answers requests for past trades."""

    async def get(self, path: str) -> bytes:
        """Return the body of the answer to a GET of a path with its query.

        Waits until the venue's limits allow it. Raises Retry where the venue cannot answer now, and
        BadMessage where it refuses the request.
        """
        ...


class HttpRest:
    """Requests over HTTP. Each waits `request_s` after the one before, whoever asks.

    Answers come on a thread of their own, so that a slow venue does not hold up the streams.
    """

    def __init__(
        self,
        base_url: str,
        request_s: float,
        headers: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], float],
    ) -> None:
        """Raises ConfigError unless the address is one of HTTP."""
        if urlsplit(base_url).scheme not in {"http", "https"}:
            raise ConfigError([f"urls.rest: {base_url!r} must begin with https:// or http://"])
        self._base_url = base_url.rstrip("/")
        self._request_s = request_s
        self._headers = {"Accept": "application/json", "User-Agent": "swap-aggregator"}
        self._headers |= headers or {}
        self._clock = clock
        self._next_s = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rest")

    async def get(self, path: str) -> bytes:
        now_s = self._clock()
        turn_s = max(now_s, self._next_s)
        self._next_s = turn_s + self._request_s
        await asyncio.sleep(turn_s - now_s)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._get, path)
        except urllib.error.HTTPError as error:
            raise self._refused(path, error) from error
        except (OSError, http.client.HTTPException) as error:
            raise Retry(f"GET {path}: {error or type(error).__name__}") from error

    def close(self) -> None:
        """Stop without waiting for an answer that is under way."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _get(self, path: str) -> bytes:
        # The constructor has checked that the address is http or https.
        request = urllib.request.Request(self._base_url + path, headers=self._headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            body: bytes = answer.read(_LARGEST + 1)
        if len(body) > _LARGEST:
            raise BadMessage("rest", "", f"GET {path}: the answer is over {_LARGEST >> 20} MB")
        return body

    def _refused(self, path: str, error: urllib.error.HTTPError) -> Retry | BadMessage:
        with error:
            detail = f"GET {path}: {error.code}: {error.read(300)!r}"
        if error.code in _TOO_MANY:
            self._next_s = self._clock() + _pause_s(error.headers.get("Retry-After"))
        if error.code in _TOO_MANY | _TEMPORARY or error.code >= 500:
            return Retry(detail)
        return BadMessage("rest", "", detail)


def _pause_s(retry_after: str | None) -> float:
    """Return how long to leave a venue alone; its own word in seconds, within reason."""
    if retry_after and retry_after.isdecimal():
        return min(float(retry_after[:6]), _LONGEST_PAUSE_S)
    return 10.0
