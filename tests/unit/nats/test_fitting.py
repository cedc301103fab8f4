"""Messages above the size limit of NATS are split or shortened, never lost."""

from __future__ import annotations

import msgspec
from prometheus_client import REGISTRY

from aggregator.contracts.trades import CandleRow, TokenHistory, TradeBatch
from aggregator.nats.fitting import history_payload, trade_payloads
from tests.unit.sockets.trading import START, trade

MINUTE = 60_000


def rows(count: int) -> list[CandleRow]:
    text = "1234567.123456789"
    return [
        CandleRow(START + n * MINUTE, text, text, text, text, text, text, 7) for n in range(count)
    ]


def history(minutes: int, trades: int, label: str = "0x1") -> TokenHistory:
    sold = [msgspec.structs.replace(trade(n), trader=label) for n in range(1, trades + 1)]
    return TokenHistory("e:t", 0, 3, trades, rows(minutes), sold, from_ms=START - MINUTE)


def read(payload: bytes) -> TokenHistory:
    return msgspec.json.decode(payload, type=TokenHistory)


def shortened(kind: str) -> float:
    return REGISTRY.get_sample_value("swaps_pubsub_shortened_total", {"kind": kind}) or 0.0


def test_an_answer_that_fits_is_sent_unchanged() -> None:
    whole = history(100, 20)
    assert read(history_payload(whole, 1_000_000)) == whole


def test_a_week_of_minutes_loses_the_oldest_and_says_where_it_begins() -> None:
    before = shortened("history")
    whole = history(10_080, 200)
    payload = history_payload(whole, 1_000_000)
    assert len(payload) <= 1_000_000
    answer = read(payload)
    assert answer.shortened
    assert (answer.n, answer.trades) == (200, whole.trades)
    assert answer.candles == whole.candles[-len(answer.candles) :]
    assert len(answer.candles) > 2_500
    assert answer.from_ms == answer.candles[0].minute_ms
    assert shortened("history") - before == 1


def test_long_labels_lose_the_oldest_trades_and_no_minutes() -> None:
    whole = history(100, 200, "\x01" * 1_024)
    answer = read(history_payload(whole, 1_000_000))
    assert answer.candles == whole.candles
    assert answer.from_ms == whole.from_ms
    assert [each.n for each in answer.trades] == list(range(101, 201))


def test_any_answer_is_made_to_fit() -> None:
    assert len(history_payload(history(500, 50, "\x01" * 9_000), 1_000)) <= 1_000


def test_a_batch_of_trades_is_split_in_order() -> None:
    batch = TradeBatch("e:t", 0, 3, [trade(n) for n in range(1, 2_501)])
    parts = list(trade_payloads(batch, 100_000))
    assert all(len(payload) <= 100_000 for _, payload in parts)
    read_back = [msgspec.json.decode(payload, type=TradeBatch) for _, payload in parts]
    assert [each for part in read_back for each in part.trades] == batch.trades
    assert [count for count, _ in parts] == [len(part.trades) for part in read_back]
    assert {(part.token_id, part.partition, part.epoch) for part in read_back} == {("e:t", 0, 3)}


def test_a_single_trade_that_is_too_large_is_sent_alone() -> None:
    big = msgspec.structs.replace(trade(2), trader="x" * 5_000)
    batch = TradeBatch("e:t", 0, 3, [trade(1), big, trade(3)])
    assert [count for count, _ in trade_payloads(batch, 1_000)] == [1, 1, 1]
