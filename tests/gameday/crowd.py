"""A process with many WebSocket clients that reconnect, to another node if theirs is gone.

    {"do": "storm"}                      cut every socket
    {"do": "renew", "key": "FILE.pem"}   sign with this key from now on; renew in place
    {"do": "dump", "file": "PATH"}       write what every client holds to a file, then continue
    {"do": "stop"}

Writes a line four times a second: how many clients are connected and fresh, and what happened since
the previous line. `promises` checks what the protocol promises.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import websockets
from websockets.asyncio.client import ClientConnection

from tests.gameday.events import token_ids
from tests.gameday.keys import Signer
from tests.gameday.promises import Client, Ledger, Numbers

_REPORT_S = 0.25
# A row that a client holds is fresh if its owner computed it at most this long ago.
_FRESH_MS = 3_000
_decode = msgspec.json.Decoder().decode


def now_ms() -> int:
    """The machine's clock."""
    return time.time_ns() // 1_000_000


class Socket:
    """One client and its current connection."""

    def __init__(self, number: int, tokens: list[str], crowd: Crowd) -> None:
        self.client = Client(f"client-{number}", crowd.ledger)
        self.connection: ClientConnection | None = None
        self.last_frame = time.monotonic()
        self._crowd = crowd
        rng = self._rng = random.Random(f"client:{number}")
        self._node = number
        self.held = [*rng.sample(tokens, 4), tokens[number % len(tokens)]]
        self.trades = self.held[:2]
        self.candles = self.held[2:3]

    async def run(self) -> None:
        """Connect, listen and reconnect, indefinitely."""
        delay = 0.0
        while True:
            await asyncio.sleep(delay * self._rng.uniform(0.5, 1))
            url = self._crowd.urls[self._node % len(self._crowd.urls)]
            try:
                async with asyncio.timeout(10):
                    connection = await websockets.connect(
                        url,
                        additional_headers={"Authorization": self._bearer()},
                        max_size=None,
                        ping_interval=None,
                        compression=None,
                    )
            except (OSError, TimeoutError, websockets.WebSocketException) as error:
                self._crowd.seen[f"refused: {_short(error)}"] += 1
                self._node += 1
                delay = min(2.0, delay * 2 or 0.1)
                continue
            self._crowd.seen["connected"] += 1
            delay = 0.1
            self.client.connected()
            self.connection, self.last_frame = connection, time.monotonic()
            try:
                await self._listen(connection)
            except (OSError, websockets.WebSocketException):
                pass
            finally:
                self.connection = None
                await connection.close()
            code = connection.close_code
            self._crowd.seen[f"closed {code}"] += 1
            if code in {1006, 1012, 1011}:
                self._node += 1

    def _bearer(self) -> str:
        return f"Bearer {self._crowd.signer.token(self.client.name)}"

    async def _listen(self, connection: ClientConnection) -> None:
        for request in self._requests():
            await connection.send(json.dumps(request))
        async for frame in connection:
            now = time.monotonic()
            self._crowd.longest_silence = max(self._crowd.longest_silence, now - self.last_frame)
            self.last_frame = now
            for message in _decode(frame):
                self._crowd.messages += 1
                if message["type"] == "ack" and message.get("method") == "auth":
                    self._crowd.seen["renewed"] += "error" not in message
                if message["type"] == "update" and message.get("channel") == "token_stats":
                    self._crowd.note_age(message["data"])
                self.client.take(message)

    def _requests(self) -> list[dict[str, Any]]:
        rows: dict[str, Any] = {
            "method": "subscribe", "channel": "token_stats", "tokens": self.held,
            "resume": {t: r for t in self.held if (r := self.client.resume_of_row(t))},
        }  # fmt: skip
        if not rows["resume"]:
            del rows["resume"]
        requests = [rows]
        for token in self.trades:
            request: dict[str, Any] = {"method": "subscribe", "channel": "trades"}
            request["tokens"] = [token]
            if resume := self.client.resume_of_trades(token):
                request["resume"] = resume
            requests.append(request)
        candles = {"channel": "candles", "interval": "1m", "tokens": self.candles}
        return [*requests, {"method": "subscribe", **candles}]

    async def renew(self) -> None:
        """Send a token of the new key on the open connection."""
        if self.connection is not None:
            token = self._crowd.signer.token(self.client.name)
            with contextlib.suppress(websockets.WebSocketException):
                await self.connection.send(json.dumps({"method": "auth", "token": token}))

    def cut(self) -> None:
        """Cut the connection without a close frame, as a failing network does."""
        if self.connection is not None:
            self.connection.transport.abort()

    def fresh(self, now: int) -> bool:
        """Whether it is connected, has no staleness announced, and holds a new row."""
        if self.connection is None or self.client.stale:
            return False
        return self.client.fresh_ms >= now - _FRESH_MS


class Crowd:
    """All clients."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.urls = [f"ws://127.0.0.1:{port}/ws" for port in options.ports]
        self.signer = Signer(options.key)
        self.seen: Counter[str] = Counter()
        self.messages = 0
        self.longest_silence = 0.0
        # How many updates came how many ms after their owner made them.
        self.ages: Counter[int] = Counter()
        self.ledger: Ledger = {}
        tokens = token_ids(options.tokens)
        self.sockets = [Socket(number, tokens, self) for number in range(options.sockets)]

    async def run(self) -> None:
        """Run all clients until the order to stop."""
        orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        tasks = [asyncio.create_task(_listen(orders)), asyncio.create_task(self._report())]
        for number, socket in enumerate(self.sockets):
            tasks.append(asyncio.create_task(socket.run()))
            if number % 20 == 19:
                await asyncio.sleep(0.1)
        while (order := await orders.get())["do"] != "stop":
            match order["do"]:
                case "storm":
                    for socket in self.sockets:
                        socket.cut()
                case "renew":
                    self.signer = Signer(Path(order["key"]))
                    for socket in self.sockets:
                        await socket.renew()
                case "dump":
                    self._dump(Path(order["file"]))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def note_age(self, row: dict[str, Any] | None) -> None:
        """Note the age of a row that a client has just received."""
        if row is not None:
            age = max(0, now_ms() - row["as_of"])
            self.ages[age if age < 100 else age // 10 * 10] += 1

    async def _report(self) -> None:
        reported = 0
        while True:
            await asyncio.sleep(_REPORT_S)
            now = now_ms()
            clients = [socket.client for socket in self.sockets]
            line = {
                "at": now,
                "connected": sum(socket.connection is not None for socket in self.sockets),
                "fresh": sum(socket.fresh(now) for socket in self.sockets),
                "stale": sum(s.connection is not None and s.client.stale for s in self.sockets),
                "gaps": sum(client.gaps for client in clients),
                "lost": sum(n.lost for client in clients for n in client.trades.values()),
                "wrong": sum(len(client.wrong) for client in clients),
                "messages": self.messages - reported,
                "silence_s": round(self.longest_silence, 2),
                "seen": dict(self.seen),
                "ages": dict(self.ages),
            }
            self.ages.clear()
            reported, self.longest_silence = self.messages, 0.0
            self.seen.clear()
            print(json.dumps(line), flush=True)

    def _dump(self, file: Path) -> None:
        held = [
            {
                "name": socket.client.name,
                "wrong": socket.client.wrong,
                "held": socket.held,
                "rows": socket.client.rows,
                "newest": {
                    token: socket.client.trades.get(token, Numbers()).newest
                    for token in socket.trades
                },
                "candles": {
                    token: list(socket.client.candles.get(token, {}).values())
                    for token in socket.candles
                },
            }
            for socket in self.sockets
        ]
        trades = {token: list(known.items()) for token, known in self.ledger.items()}
        everything = msgspec.json.encode({"clients": held, "trades": trades})
        file.with_suffix(".part").write_bytes(everything)
        file.with_suffix(".part").rename(file)
        print(json.dumps({"at": now_ms(), "dumped": file.name}), flush=True)


async def _listen(orders: asyncio.Queue[dict[str, Any]]) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        await orders.put(json.loads(line))
    await orders.put({"do": "stop"})


def _short(error: BaseException) -> str:
    if isinstance(error, websockets.InvalidStatus):
        return f"HTTP {error.response.status_code}"
    return type(error).__name__


def main() -> None:
    """Run the process; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.gameday.crowd")
    parser.add_argument("--ports", type=int, nargs="+", required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--sockets", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    asyncio.run(Crowd(parser.parse_args()).run())


if __name__ == "__main__":
    main()
