"""The senders of `bench.ingest_http`, in a separate process so that they do not slow the node down.

    python -m bench.ingest_load PORT LINES SECONDS RATE < token

Keep-alive connections post bodies of LINES swaps. With RATE 0 each of 4 connections sends the next
body as soon as it has an answer. Otherwise bodies are due at an even rate of RATE lines/s, and a
latency counts from the instant at which its body was due. Meanwhile a WebSocket sends a ping every
10 ms. Prints one JSON object; every answer must be a 200 that accepts all lines.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Final

from websockets.asyncio.client import connect

from bench.command import percentile

_CONNECTIONS: Final = 4
_BODIES: Final = 100
_TOKENS: Final = 2_000
_WARM_S: Final = 1.0
_PING_S: Final = 0.01


class IngestSender:
    """One connection; `accepted` counts the swaps that the broker has acknowledged."""

    def __init__(self, port: int, token: str, bodies: list[bytes]) -> None:
        self._port = port
        self._bodies = bodies
        self._head = (
            f"POST /api/ingest/swaps HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}"
            "\r\nContent-Type: application/x-ndjson\r\nContent-Length: "
        )
        self.accepted = 0

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def send(self) -> None:
        body = random.choice(self._bodies)
        self._writer.write(f"{self._head}{len(body)}\r\n\r\n".encode())
        self._writer.write(body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        answer = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(answer.decode())
        said = json.loads(answer)
        if said["accepted"] != body.count(b"\n"):
            raise ValueError(answer.decode())
        self.accepted += said["accepted"]

    def close(self) -> None:
        self._writer.close()


def bodies(lines: int) -> list[bytes]:
    """Return bodies of that many swaps, of the size and spread of an indexer's events."""
    draw = random.Random(7)
    return [b"".join(_event(draw) + b"\n" for _ in range(lines)) for _ in range(_BODIES)]


def _event(draw: random.Random) -> bytes:
    token = draw.randrange(_TOKENS)
    return json.dumps(
        {
            "chain": "ethereum",
            "tx_hash": f"0x{draw.getrandbits(256):064x}",
            "log_index": draw.randrange(300),
            "block_number": 20_412_345,
            "block_hash": f"0x{draw.getrandbits(256):064x}",
            "timestamp": time.time_ns() // 1_000_000,
            "token": f"0x{token:040x}",
            "symbol": f"T{token}",
            "side": draw.choice(("buy", "sell")),
            "amount": f"{draw.uniform(0.001, 5_000):.12f}",
            "amount_usd": f"{draw.uniform(1, 90_000):.6f}",
            "venue": "uniswap-v3",
            "pool": f"0x{token * 7:040x}",
            "trader": f"0x{draw.getrandbits(160):040x}",
            "quote": "USDC",
        }
    ).encode()


async def send_for(senders: list[IngestSender], seconds: float, per_s: float) -> list[float]:
    """Return the latencies in seconds; `per_s` bodies a second, 0: as many as possible."""
    latencies: list[float] = []
    begun = time.perf_counter()
    due_times: Iterator[float] = iter(())
    if per_s:
        due_times = (begun + n / per_s for n in range(int(seconds * per_s)))

    async def paced(sender: IngestSender) -> None:
        for due in due_times:
            if time.perf_counter() > begun + 2 * seconds:
                return  # the node cannot keep up with the rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            await sender.send()
            latencies.append(time.perf_counter() - due)

    async def peak(sender: IngestSender) -> None:
        while (at := time.perf_counter()) < begun + seconds:
            await sender.send()
            latencies.append(time.perf_counter() - at)

    await asyncio.gather(*map(paced if per_s else peak, senders))
    return latencies


async def pings(port: int, token: str, latencies: list[float]) -> None:
    """Measure how long a WebSocket waits for each pong, until it is cancelled."""
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers) as socket:
        while True:
            begun = time.perf_counter()
            await (await socket.ping())
            latencies.append(time.perf_counter() - begun)
            await asyncio.sleep(_PING_S)


async def main() -> None:
    """Run the program that the module's docstring describes."""
    port, lines, seconds, rate = int(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:5])
    token = sys.stdin.read().strip()
    made = bodies(lines)
    senders = [IngestSender(port, token, made) for _ in range(_CONNECTIONS)]
    for sender in senders:
        await sender.open()
    await send_for(senders, _WARM_S, rate / lines)
    waits: list[float] = []
    pinging = asyncio.create_task(pings(port, token, waits))
    begun, before = time.time(), sum(each.accepted for each in senders)
    latencies = await send_for(senders, seconds, rate / lines)
    ended = time.time()
    accepted = sum(each.accepted for each in senders)
    pinging.cancel()
    for sender in senders:
        sender.close()
    result = {
        "lines_per_s": round((accepted - before) / (ended - begun)),
        "p50_ms": round(percentile(latencies, 0.5) * 1000, 2),
        "p99_ms": round(percentile(latencies, 0.99) * 1000, 2),
        "ping_p50_ms": round(percentile(waits, 0.5) * 1000, 2),
        "ping_p99_ms": round(percentile(waits, 0.99) * 1000, 2),
        "accepted": accepted,
        "measured": accepted - before,
        "begun_at": begun,
        "ended_at": ended,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
