"""The exchange of the documents' commands: Coinbase on loopback, with a trade a second."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.exchange_server import LoopbackExchange
from tests.support.loop_thread import LoopThread


@contextmanager
def coinbase(*symbols: str) -> Iterator[LoopbackExchange]:
    """Run the venue with these markets on a thread."""
    exchange = LoopbackExchange("coinbase")
    exchange.symbols = symbols
    with LoopThread("exchange") as thread:
        thread.call(exchange.__aenter__())
        trading = asyncio.run_coroutine_threadsafe(_trade(exchange), thread.loop)
        try:
            yield exchange
        finally:
            trading.cancel()
            thread.call(exchange.__aexit__(None, None, None))


async def _trade(exchange: LoopbackExchange) -> None:
    while True:
        await exchange.trade(1)
        await asyncio.sleep(1)
