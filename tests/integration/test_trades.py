"""Every counted swap is published once with its token's next number, over kill -9 and restart."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from aggregator.contracts.names import TRADES_SUBJECT_PREFIX, history_subject, trades_subject
from aggregator.contracts.trades import HistoryRequest, TokenHistory, Trade, TradeBatch
from infra.embedded.stack import Stack
from tests.support.service import Service, swap


@pytest.fixture
def service(tmp_path: Path, stack: Stack) -> Iterator[Service]:
    with Service(tmp_path, stack) as running:
        yield running


class Tape:
    """All published trades, by token and `n`; a repeat must be the same trade."""

    def __init__(self) -> None:
        self.trades: defaultdict[str, dict[int, Trade]] = defaultdict(dict)
        self.partitions: dict[str, int] = {}

    async def take(self, message: Msg) -> None:
        batch = msgspec.json.decode(message.data, type=TradeBatch)
        assert message.subject == trades_subject(batch.token_id)
        self.partitions[batch.token_id] = batch.partition
        for trade in batch.trades:
            assert self.trades[batch.token_id].setdefault(trade.n, trade) == trade

    def count(self) -> int:
        return sum(map(len, self.trades.values()))


@asynccontextmanager
async def listening(service: Service) -> AsyncIterator[tuple[Client, Tape]]:
    client, tape = await nats.connect(service.env["NATS_URL"]), Tape()
    await client.subscribe(f"{TRADES_SUBJECT_PREFIX}*", cb=tape.take)
    await client.flush()
    try:
        yield client, tape
    finally:
        await client.close()


async def told(tape: Tape, count: int) -> None:
    async with asyncio.timeout(40):
        while tape.count() < count:  # noqa: ASYNC110 - NATS's client calls back, nothing to await
            await asyncio.sleep(0.02)


async def history(client: Client, partition: int, token_id: str) -> TokenHistory:
    """The owner's answer; asked again until there is one."""
    question = msgspec.json.encode(HistoryRequest(token_id))
    async with asyncio.timeout(20):
        while True:
            try:
                answer = await client.request(history_subject(partition), question, timeout=1)
            except (NatsTimeout, NoRespondersError):
                await asyncio.sleep(0.05)
            else:
                return msgspec.json.decode(answer.data, type=TokenHistory)


async def test_trades_are_numbered_without_a_gap_over_a_kill(service: Service) -> None:
    first = service.aggregator("first")
    async with listening(service) as (client, tape):
        await asyncio.to_thread(service.produce, [swap(n) for n in range(700)])
        await told(tape, 700)
        before = {token: max(numbers) for token, numbers in tape.trades.items()}
        first.kill()
        await asyncio.to_thread(service.produce, [swap(n) for n in range(600, 1_400)])
        service.aggregator("second")
        await told(tape, 1_400)

        hashes = [trade.tx_hash for numbers in tape.trades.values() for trade in numbers.values()]
        assert len(set(hashes)) == len(hashes) == 1_400
        assert len(tape.trades) == 7
        for token, numbers in tape.trades.items():
            assert sorted(numbers) == list(range(min(numbers), min(numbers) + 200)), token
            assert max(numbers) == before[token] + 100
            offsets = [numbers[n].offset for n in sorted(numbers)]
            assert offsets == sorted(offsets)

        token = next(iter(tape.trades))
        seen = await history(client, tape.partitions[token], token)
        assert seen.n == max(tape.trades[token])
        assert sum(candle.trades for candle in seen.candles) == 200
        volume = sum(Decimal(trade.amount_usd or 0) for trade in tape.trades[token].values())
        assert sum(Decimal(candle.volume_usd) for candle in seen.candles) == volume
        assert seen.trades
        assert [trade.n for trade in seen.trades] == list(
            range(seen.n - len(seen.trades) + 1, seen.n + 1)
        )
        assert all(trade == tape.trades[token][trade.n] for trade in seen.trades)

        unknown = await history(client, tape.partitions[token], "ethereum:NOBODY")
        assert (unknown.n, unknown.candles, unknown.trades) == (0, [], [])


async def test_a_retraction_is_told_as_a_trade_of_its_own(service: Service) -> None:
    service.aggregator()
    async with listening(service) as (_, tape):
        await asyncio.to_thread(service.produce, [swap(0), swap(7), swap(7), swap(0, removed=True)])
        await told(tape, 3)
        (numbers,) = tape.trades.values()
        told_of = [(numbers[n].tx_hash[-1], numbers[n].removed) for n in sorted(numbers)]
        assert told_of == [("0", False), ("7", False), ("0", True)]
