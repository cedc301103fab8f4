"""Limits for connections to Daphne: the size of a request, and the time that it takes to arrive.

Daphne accepts a body of any size, and a request as slow as a byte per minute. If Daphne is the
server (other ASGI servers do not change), its connections limit the body (status 413) and the time
from the first byte of a request to the last one (408). A head has at most 128 KiB, the size of a
hundred of the longest token ids in an address, and 500 lines (Twisted's limit). WebSocket
handshakes have 5 s (Daphne's limit).

Twisted calls a status that is newer than its list "Unknown Status", for example 429; this module
adds the phrases of the standard.
"""

# Twisted declares its interfaces without `self`, and most of its methods without types.
# mypy: disable-error-code="no-untyped-call, call-arg, misc, union-attr, attr-defined"

from __future__ import annotations

import sys
from http import HTTPStatus
from typing import Any, Final

import msgspec
from daphne.http_protocol import HTTPFactory, WebRequest
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import STDLibLogObserver, globalLogBeginner
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, HTTPChannel

_DONE: Final = Failure(ConnectionDone())
HEAD_BYTES: Final = 131_072
_CODES: Final = {
    HTTPStatus.REQUEST_TIMEOUT: ("request_too_slow", "The request did not arrive in time."),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("request_too_large", "The request's body is too large."),
}


def install(body_limit: int, within_s: float) -> None:
    """Set the limits if Daphne imports the application; Daphne creates its factory later."""
    server = sys.modules.get("daphne.server")
    if server is not None:
        for status in HTTPStatus:
            RESPONSES.setdefault(status.value, status.phrase.encode())
        limits = {"body_limit": body_limit, "within_s": within_s}
        server.HTTPFactory = type("LimitedFactory", (LimitedFactory,), limits)
        # Without this, Twisted writes its errors to stderr, in lines that log readers cannot parse.
        observer: Any = STDLibLogObserver("twisted")
        globalLogBeginner.beginLoggingTo([observer], discardBuffer=True, redirectStandardIO=False)


class LimitedRequest(WebRequest):
    """A request whose body is limited."""

    _received = 0

    def gotLength(self, length: int | None) -> None:
        """Check the length that the head announces; None for a chunked body."""
        super().gotLength(length)
        if length is not None and length > self.channel.factory.body_limit:
            self.channel.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def handleContentChunk(self, data: bytes) -> None:
        """Count a piece of the body against the limit."""
        self._received += len(data)
        if self._received > self.channel.factory.body_limit:
            self.channel.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif not self.channel.refused:
            super().handleContentChunk(data)


class LimitedChannel(HTTPChannel):
    """A connection that is closed if a request does not arrive in time.

    Twisted's timeout starts again with every byte, so it cannot stop a slow sender.
    """

    totalHeadersSize = HEAD_BYTES
    MAX_LENGTH = HEAD_BYTES
    refused = False
    _due: IDelayedCall | None = None

    def dataReceived(self, data: bytes) -> None:
        """Start the clock with the first byte of a request.

        Bytes that arrive while a request is being answered wait in Twisted's buffer and start none.
        """
        if self.refused:
            return
        if self._due is None and not self._handlingRequest:
            within_s = self.factory.within_s
            self._due = self.callLater(within_s, self.refuse, HTTPStatus.REQUEST_TIMEOUT)
        super().dataReceived(data)

    def allContentReceived(self) -> None:
        """Stop the clock: the request is complete."""
        self._stop_clock()
        if not self.refused:
            super().allContentReceived()

    def connectionLost(self, reason: Failure = _DONE) -> None:
        """Stop the clock: the connection is closed."""
        self._stop_clock()
        super().connectionLost(reason)

    def refuse(self, status: HTTPStatus) -> None:
        """Answer with a problem document and close; the rest of the request is not read."""
        if self.refused:
            return
        self.refused = True
        self._stop_clock()
        code, detail = _CODES[status]
        problem = {"type": "about:blank", "title": status.phrase, "status": status.value}
        body = msgspec.json.encode(problem | {"code": code, "detail": detail})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.loseConnection()

    def _stop_clock(self) -> None:
        if self._due is not None and self._due.active():
            self._due.cancel()
        self._due = None


class LimitedFactory(HTTPFactory):
    """Creates limited connections; `install` sets the limits."""

    protocol = LimitedChannel  # type: ignore[assignment]
    body_limit: int
    within_s: float

    def buildProtocol(self, addr: Any) -> Any:
        """Return the connection from `addr`."""
        channel = super().buildProtocol(addr)
        channel.requestFactory = LimitedRequest
        return channel
