"""Requests to a venue's REST interface: one at a time at the venue's pace, errors by their use."""

from __future__ import annotations

import asyncio
import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol
from urllib.parse import urlsplit

from aggregator.runtime.errors import BadMessage, ConfigError, Retry
from sources.metrics import Outcome

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

    A request runs on a thread of its own, so that a slow venue holds up neither the streams nor the
    end of the process. `count` gets the outcome of each.
    """

    def __init__(
        self,
        base_url: str,
        request_s: float,
        headers: Mapping[str, str] | None = None,
        *,
        count: Callable[[Outcome], None],
        clock: Callable[[], float],
    ) -> None:
        """Raises ConfigError unless the address is one of HTTP."""
        if urlsplit(base_url).scheme not in {"http", "https"}:
            raise ConfigError([f"urls.rest: {base_url!r} must begin with https:// or http://"])
        self._base_url = base_url.rstrip("/")
        self._request_s = request_s
        self._headers = {"Accept": "application/json", "User-Agent": "swap-aggregator"}
        self._headers |= headers or {}
        self._count = count
        self._clock = clock
        self._next_s = 0.0
        self._turn = asyncio.Lock()

    async def get(self, path: str) -> bytes:
        """See `Rest`."""
        async with self._turn:
            await asyncio.sleep(max(0.0, self._next_s - self._clock()))
            self._next_s = self._clock() + self._request_s
            try:
                body = await self._on_a_thread(path)
            except urllib.error.HTTPError as error:
                raise self._refused(path, error) from error
            except (OSError, http.client.HTTPException) as error:
                timed_out = isinstance(error, TimeoutError) or "timed out" in str(error)
                self._count("timeout" if timed_out else "failed")
                raise Retry(f"GET {path}: {error or type(error).__name__}") from error
        self._count("ok")
        return body

    async def _on_a_thread(self, path: str) -> bytes:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes] = loop.create_future()

        def settle(body: bytes | None, error: Exception | None) -> None:
            if answered.done():
                return
            if error is not None:
                answered.set_exception(error)
            else:
                answered.set_result(body or b"")

        def request() -> None:
            body, fault = None, None
            try:
                body = self._get(path)
            except Exception as error:
                fault = error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, body, fault)

        threading.Thread(target=request, name="rest", daemon=True).start()
        return await answered

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
            self._count("limited")
            return Retry(detail)
        if error.code in _TEMPORARY or error.code >= 500:
            self._count("failed")
            return Retry(detail)
        self._count("refused")
        return BadMessage("rest", "", detail)


def _pause_s(retry_after: str | None) -> float:
    """Return how long to leave a venue alone; its own word in seconds, within reason."""
    if retry_after and retry_after.isdecimal():
        return min(float(retry_after[:6]), _LONGEST_PAUSE_S)
    return 10.0
