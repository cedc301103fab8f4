"""The upper bound of the ingest benchmark: read a topic and decode every event, nothing else.

    python -m bench.bound BOOTSTRAP TOPIC EVENTS

This is the most that a Python process can do with the same events: librdkafka batches and one
msgspec decode of every field. Prints one JSON object when everything is read, then waits for
SIGTERM, so that the caller can still read its CPU time.
"""

from __future__ import annotations

import json
import signal
import sys
import time

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

_BATCH = 5_000


class Event(msgspec.Struct, gc=False):
    """Every field of DESIGN 3, decoded without any check."""

    chain: str
    tx_hash: str
    log_index: int
    timestamp: int
    token: str
    side: str
    amount: str
    amount_usd: str | None = None
    price_usd: str | None = None
    removed: bool = False
    symbol: str | None = None
    quote: str | None = None
    venue: str | None = None
    pool: str | None = None
    trader: str | None = None
    block_number: int | None = None
    block_hash: str | None = None
    leg: int = 0
    quote_token: str | None = None
    reserve_token: str | None = None
    reserve_quote: str | None = None


def main() -> None:
    """Run the program that the module's docstring describes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    bootstrap, topic, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-bound",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 10,
        }
    )
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    first = last = 0.0
    decode = msgspec.json.Decoder(Event).decode
    seen = 0
    while seen < events:
        batch = consumer.consume(_BATCH, 0.2)
        if batch and not seen:
            first = time.time()
        for message in batch:
            decode(message.value() or b"")
        seen += len(batch)
        last = time.time()
    print(
        json.dumps({"event": "read", "first_at": first, "last_at": last, "seen": seen}), flush=True
    )
    signal.sigwait([signal.SIGTERM])
    consumer.close()


if __name__ == "__main__":
    main()
