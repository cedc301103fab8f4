"""The callers of `bench.rest`, in a separate process so that they do not slow the node down.

    python -m bench.rest_load PORT PATH NUMBERS SECONDS RATE < token

Uses keep-alive connections over plain sockets; PATH holds a `{}` for a number below NUMBERS. With
RATE 0 each of 32 connections sends the next request as soon as it has an answer. Otherwise requests
are due at an even rate, and a latency counts from the instant at which its request was due, so that
it includes the wait for a connection. Prints one JSON object; every answer must be a 200.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator

from bench.command import percentile

_CONNECTIONS = 32


class Caller:
    """One connection."""

    def __init__(self, port: int, path: str, numbers: int, token: str) -> None:
        self._port = port
        self._path = path
        self._numbers = numbers
        self._head = f"HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def ask(self) -> None:
        path = self._path.format(random.randrange(self._numbers))
        self._writer.write(f"GET {path} {self._head}".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(head.decode())
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await self._reader.readexactly(int(length))

    def close(self) -> None:
        self._writer.close()


async def peak(callers: list[Caller], seconds: float) -> list[float]:
    """Return the latencies, in seconds, of as many requests as possible."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def go_on(caller: Caller) -> None:
        while (begun := time.perf_counter()) < end:
            await caller.ask()
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*map(go_on, callers))
    return latencies


async def even(callers: list[Caller], seconds: float, rate: float) -> list[float]:
    """Return the latencies, in seconds, of requests at an even rate, each from its due time."""
    latencies: list[float] = []
    begun = time.perf_counter()
    due_times: Iterator[float] = (begun + n / rate for n in range(int(seconds * rate)))

    async def go_on(caller: Caller) -> None:
        for due in due_times:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            await caller.ask()
            latencies.append(time.perf_counter() - due)

    await asyncio.gather(*map(go_on, callers))
    return latencies


async def main() -> None:
    """Run the program that the module's docstring describes."""
    port, path, numbers, seconds, rate = sys.argv[1:]
    token = sys.stdin.read().strip()
    callers = [Caller(int(port), path, int(numbers), token) for _ in range(_CONNECTIONS)]
    for caller in callers:
        await caller.open()
    await peak(callers, 0.5)
    begun = time.perf_counter()
    if float(rate):
        latencies = await even(callers, float(seconds), float(rate))
    else:
        latencies = await peak(callers, float(seconds))
    took = time.perf_counter() - begun
    for caller in callers:
        caller.close()
    result = {
        "per_s": len(latencies) / took,
        "p50_ms": round(percentile(latencies, 0.5) * 1000, 2),
        "p99_ms": round(percentile(latencies, 0.99) * 1000, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
