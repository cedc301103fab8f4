"""Messages within the size limit of NATS: a larger one is split or shortened, never lost.

NATS refuses a payload above the server's `max_payload` (1 MiB by default). Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from aggregator.contracts.trades import TokenHistory, TradeBatch
from aggregator.runtime import metrics

_encode = msgspec.json.Encoder().encode


def history_payload(history: TokenHistory, most_bytes: int) -> bytes:
    """Encode the answer in at most `most_bytes`, without its oldest minutes and trades if needed.

    A shortened answer counts up to the same `n`. The web node reads from `from_ms` where the
    candles begin, and reports the missing trades to its clients as a gap.
    """
    payload = _encode(history)
    if len(payload) > most_bytes:
        metrics.PUBSUB_SHORTENED.labels("history").inc()
    while len(payload) > most_bytes and (history.candles or history.trades):
        candles, trades = history.candles, history.trades
        # The larger half first: 200 trades with long labels can outweigh two days of minutes.
        if len(_encode(trades)) > len(_encode(candles)):
            trades = trades[-(len(trades) // 2) :] if len(trades) > 1 else []
        else:
            candles = candles[-(len(candles) // 2) :] if len(candles) > 1 else []
        from_ms = history.from_ms
        if len(candles) < len(history.candles):
            from_ms = history.candles[-len(candles) - 1].minute_ms + 60_000
        history = msgspec.structs.replace(
            history, candles=candles, trades=trades, from_ms=from_ms, shortened=True
        )
        payload = _encode(history)
    return payload


def trade_payloads(batch: TradeBatch, most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield (number of trades, payload) for messages of at most `most_bytes`, in order.

    A single trade may exceed the limit. NATS then refuses it, and the web nodes ask for it.
    """
    payload = _encode(batch)
    if len(payload) <= most_bytes or len(batch.trades) == 1:
        yield len(batch.trades), payload
        return
    half = len(batch.trades) // 2
    for part in (batch.trades[:half], batch.trades[half:]):
        yield from trade_payloads(msgspec.structs.replace(batch, trades=part), most_bytes)
