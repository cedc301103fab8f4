"""A venue on the loopback interface, WebSocket and REST, that fails as real ones do.

A trade that `happen`s is in the venue's history; it is sent unless it is hidden. Everything else is
a fault that a test asks for: cuts, repeats, disorder, requests that are refused.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.support import exchange_wire as wire
from tests.support.exchange_wire import Made


class LoopbackExchange:
    """One venue.

    `symbols` are its open markets, `tape` has what happened by symbol, `requests` the targets of
    REST requests.

    `page` is the most trades in an answer, `served_from` the lowest number that requests still
    find. `refusals` are answers (status, Retry-After) for the next requests. A venue that is not
    `answering` says nothing to a message; one that is `muted` says nothing to a new connection.
    `before_subscribing` is called with the symbols of each message that subscribes.
    """

    def __init__(self, venue: str) -> None:
        self.venue = venue
        self.symbols = wire.SYMBOLS[venue]
        self.tape: defaultdict[str, list[Made]] = defaultdict(list)
        self.requests: list[str] = []
        self.heard: list[str] = []
        self.opened = 0
        self.page = 1_000
        self.served_from = 0
        self.refusals: list[tuple[int, str]] = []
        self.answering = True
        self.muted = False
        self.before_subscribing: Callable[[list[str]], None] = lambda _: None
        self.sockets: dict[ServerConnection, set[str]] = {}
        self._changed = asyncio.Condition()
        self._stream: Server
        self._rest: asyncio.Server

    async def __aenter__(self) -> Self:
        self._stream = await serve(self._converse, "127.0.0.1", 0, compression=None)
        self._rest = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._rest.close()
        self._stream.close()
        await self._stream.wait_closed()

    @property
    def stream_url(self) -> str:
        return f"ws://127.0.0.1:{self._stream.sockets[0].getsockname()[1]}/stream"

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self._rest.sockets[0].getsockname()[1]}"

    def happen(self, count: int, symbol: str = "") -> list[Made]:
        """Have trades happen without a message; return them."""
        symbol = symbol or self.symbols[0]
        tape = self.tape[symbol]
        made = [Made(symbol, len(tape) + 1 + index) for index in range(count)]
        tape.extend(made)
        return made

    async def trade(self, count: int, symbol: str = "") -> list[Made]:
        """Have trades happen and send them; return them."""
        made = self.happen(count, symbol)
        await self.send(made)
        return made

    async def send(self, trades: Iterable[Made]) -> None:
        """Send trades in any order, as often as they come, to those who subscribed."""
        for trade in trades:
            await self.say(wire.frame(self.venue, trade), trade.symbol)

    async def say(self, frame: str, symbol: str = "") -> None:
        """Send a frame to those who subscribed to a symbol, or to any."""
        for socket, symbols in list(self.sockets.items()):
            if symbol in symbols or (not symbol and symbols):
                # One that is about to be left may close at any moment.
                with suppress(ConnectionClosed):
                    await socket.send(frame)

    async def subscribed(self, sockets: int = 1, *, opened: int = 0) -> None:
        """Wait until so many connections have subscribed, of so many that were opened."""

        def ready() -> bool:
            return sum(map(bool, self.sockets.values())) == sockets and self.opened >= opened

        async with self._changed:
            await self._changed.wait_for(ready)

    async def cut(self) -> None:
        """Cut all connections without a word, and wait until the venue has noticed."""
        for socket in list(self.sockets):
            socket.transport.abort()
        async with self._changed:
            await self._changed.wait_for(lambda: not self.sockets)

    async def _converse(self, socket: ServerConnection) -> None:
        self.opened += 1
        self.sockets[socket] = set()
        try:
            async for text in socket:
                self.heard.append(str(text))
                symbols, replies = wire.answers(self.venue, str(text))
                if not self.answering or (self.muted and not self.sockets[socket]):
                    continue
                self.before_subscribing(symbols)
                for reply in replies:
                    await socket.send(reply)
                self.sockets[socket].update(symbols)
                await self._tell()
        except ConnectionClosed:
            pass
        finally:
            del self.sockets[socket]
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        target = head.split(b" ", 2)[1].decode()
        self.requests.append(target)
        status, extra, body = 200, "", b""
        if self.refusals:
            status, after = self.refusals.pop(0)
            extra = f"Retry-After: {after}\r\n" if after else ""
        else:
            body = json.dumps(self._body(target)).encode()
        writer.write(
            f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\n{extra}"
            "Connection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        writer.close()

    def _body(self, target: str) -> Any:
        return wire.page(self.venue, target, self._served(), self.page, self.symbols)

    def _served(self) -> dict[str, list[Made]]:
        return {
            symbol: [trade for trade in trades if trade.number >= self.served_from]
            for symbol, trades in self.tape.items()
        }


def ids(venue: str, trades: Sequence[Made]) -> set[tuple[str, int]]:
    """Return the (tx_hash, log_index) that the events of trades must have."""
    if venue == "bybit":
        return {(f"{trade.symbol}-{trade.name}", 0) for trade in trades}
    return {(trade.symbol, trade.number) for trade in trades}
