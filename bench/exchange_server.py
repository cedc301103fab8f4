"""A venue for the benchmark of exchanges: sends trades as fast as they are read.

    python -m bench.exchange_server TRADES SYMBOLS

Speaks as Binance does, one trade a frame, with frames that are made beforehand as far as possible.
Prints one JSON line with its addresses, and one when the last trade has left. Ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Final

from websockets.asyncio.server import ServerConnection, serve

_CHUNK: Final = 250
_TEXT_FRAME: Final = 0x81


def symbols_of(count: int) -> list[str]:
    """Return the names of the markets."""
    return [f"T{number}USDT" for number in range(count)]


def _frame(symbol: str, stream: str, number: int, now_ms: int) -> bytes:
    """Return a trade as a WebSocket frame of a server (RFC 6455, section 5.2)."""
    price = f"{100 + number % 977}.{number % 89 + 10}000000"
    text = (
        f'{{"stream":"{stream}","data":{{"e":"trade","E":{now_ms},"s":"{symbol}","t":{number},'
        f'"p":"{price}","q":"0.{number % 997 + 1000}0000","T":{now_ms},'
        f'"m":{"true" if number % 3 else "false"},"M":true}}}}'
    ).encode()
    assert 125 < len(text) < 65_536
    return bytes((_TEXT_FRAME, 126, *len(text).to_bytes(2, "big"))) + text


async def _send(socket: ServerConnection, trades: int, symbols: list[str]) -> None:
    async for text in socket:
        request = json.loads(text)
        if request["method"] == "SUBSCRIBE":
            await socket.send(json.dumps({"result": None, "id": request["id"]}))
            break
    streams = [f"{symbol.lower()}@trade" for symbol in symbols]
    numbers = [0] * len(symbols)
    for begin in range(0, trades, _CHUNK):
        now_ms = time.time_ns() // 1_000_000
        frames = []
        for place in range(begin, min(begin + _CHUNK, trades)):
            which = place % len(symbols)
            numbers[which] += 1
            frames.append(_frame(symbols[which], streams[which], numbers[which], now_ms))
        socket.transport.write(b"".join(frames))
        await socket.drain()
    print(json.dumps({"event": "sent", "trades": trades}), flush=True)
    await socket.wait_closed()


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, symbols: list[str]
) -> None:
    target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
    markets = [
        {
            "symbol": symbol,
            "status": "TRADING",
            "baseAsset": symbol.removesuffix("USDT"),
            "quoteAsset": "USDT",
            "isSpotTradingAllowed": True,
        }
        for symbol in symbols
    ]
    body = json.dumps({"symbols": markets} if b"exchangeInfo" in target else []).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    writer.close()


async def _serve(trades: int, symbols: list[str]) -> None:
    async with serve(
        lambda socket: _send(socket, trades, symbols), "127.0.0.1", 0, compression=None
    ) as stream:
        rest = await asyncio.start_server(
            lambda reader, writer: _answer(reader, writer, symbols), "127.0.0.1", 0
        )
        ports = [server.sockets[0].getsockname()[1] for server in (stream, rest)]
        addresses = {
            "stream": f"ws://127.0.0.1:{ports[0]}/",
            "rest": f"http://127.0.0.1:{ports[1]}",
        }
        print(json.dumps({"event": "listening"} | addresses), flush=True)
        await asyncio.Future()


def main() -> None:
    """Run the program that the module's docstring describes."""
    asyncio.run(_serve(int(sys.argv[1]), symbols_of(int(sys.argv[2]))))


if __name__ == "__main__":
    main()
