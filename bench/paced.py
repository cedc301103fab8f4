"""Produces swaps at an even rate, stamped with the present, and records when and where each went.

    python -m bench.paced BOOTSTRAP TOPIC RATE EVENTS TOKENS SEED SALT FILE

Writes a `Sent` to FILE as MessagePack and then prints one JSON object. Runs as a separate process,
so that its CPU time is not part of any other measurement.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
from confluent_kafka import KafkaError, Message, Producer

from aggregator.feed.synthetic import Shape, present, swaps
from aggregator.runtime.clock import wall_ms
from bench.service import WrongResult
from bench.workload import usd_micros

LINGER_MS = 5
_LEAST_WAIT_S = 0.001
_POLL_EVERY = 100
_FLUSH_S = 30


class Sent(msgspec.Struct):
    """Columns of equal length, in the order of sending.

    `sent_at` is the instant before the produce() call, in epoch seconds; `timestamps` are in ms.
    """

    token_ids: list[str]
    timestamps: list[int]
    micros: list[int]
    sent_at: list[float]
    partitions: list[int]
    offsets: list[int]


def send(
    bootstrap: str, topic: str, *, rate: float, events: int, tokens: int, seed: int, salt: str
) -> Sent:
    """Send the events and wait until the broker has them all. Raises WrongResult otherwise.

    `tokens` and `seed` choose the same tokens as in the other benchmarks; every `salt` gives other
    transaction hashes.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 0,
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",
            "linger.ms": LINGER_MS,
        }
    )
    producer.list_topics(topic, timeout=10)
    sent = Sent([], [], [], [0.0] * events, [-1] * events, [-1] * events)

    def delivered(index: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise WrongResult(f"a swap was not delivered: {error.str()}")
        sent.partitions[index] = message.partition() or 0
        sent.offsets[index] = message.offset() or 0

    times = present(events, wall_ms)
    salted = b'"tx_hash":"0x' + salt.encode()
    start = time.monotonic()
    for index, record in enumerate(islice(swaps(Shape(tokens=tokens, seed=seed), times), events)):
        while (left := start + index / rate - time.monotonic()) > _LEAST_WAIT_S:
            producer.poll(left)
        if index % _POLL_EVERY == 0:
            producer.poll(0)
        assert record.key is not None and record.timestamp is not None
        value = record.value.replace(b'"tx_hash":"0x', salted)
        sent.sent_at[index] = time.time()
        producer.produce(topic, value, record.key, on_delivery=partial(delivered, index))
        sent.token_ids.append(record.key.decode())
        sent.timestamps.append(record.timestamp)
        sent.micros.append(usd_micros(record.value))
    if producer.flush(_FLUSH_S):
        raise WrongResult(f"the broker did not take every swap within {_FLUSH_S} s")
    return sent


def main() -> None:
    """Run the program that the module's docstring describes."""
    bootstrap, topic, rate, events, tokens, seed, salt, file = sys.argv[1:]
    sent = send(
        bootstrap,
        topic,
        rate=float(rate),
        events=int(events),
        tokens=int(tokens),
        seed=int(seed),
        salt=salt,
    )
    Path(file).write_bytes(msgspec.msgpack.encode(sent))
    print(json.dumps({"event": "sent", "cpu_s": time.process_time()}), flush=True)


if __name__ == "__main__":
    main()
