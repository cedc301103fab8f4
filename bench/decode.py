"""CPU time of decoding one event: in batches, by the rules alone, and by msgspec alone.

    python -m bench.decode [-n 20000] [--rounds 15]

The events are those of the ingest benchmark, decoded in batches as the aggregator does. The best
round counts, so that other load on the machine matters less. msgspec is the lower bound: it decodes
every field without any check. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from aggregator.decoding.decoder import BatchDecoder
from aggregator.decoding.rules import decode_swap
from aggregator.feed.synthetic import Shape, spread, swaps
from bench.bound import Event

BATCH = 2_000
MAX_FUTURE_MS = 300_000
SPAN_MS = 3 * 3_600_000
NOW_MS = 1_790_000_000_000


class RecordsOfOneTime(NamedTuple):
    """Records of one time, as the decoder reads them."""

    values: list[bytes]
    timestamps: list[int]
    offsets: range
    origins: None = None


def us_per_event(decode: Callable[[list[bytes]], Any], values: list[bytes], rounds: int) -> float:
    """Return the CPU microseconds per event of the best round; `decode` takes a batch."""
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        for at in range(0, len(values), BATCH):
            _decoded = decode(values[at : at + BATCH])
        best = min(best, time.process_time() - begun)
    return best / len(values) * 1e6


def run(events: int, tokens: int, seed: int, rounds: int) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    times = spread(events, NOW_MS, SPAN_MS, 20_000, seed)
    values = [record.value for record in swaps(Shape(tokens=tokens, seed=seed), times)]
    decoder, plain = BatchDecoder(MAX_FUTURE_MS), msgspec.json.Decoder(Event).decode
    ways: dict[str, Callable[[list[bytes]], Any]] = {
        "batch": lambda batch: decoder.decode(
            RecordsOfOneTime(batch, [NOW_MS] * len(batch), range(len(batch)))
        ),
        "reference": lambda batch: [decode_swap(value, NOW_MS, MAX_FUTURE_MS) for value in batch],
        "msgspec": lambda batch: [plain(value) for value in batch],
    }
    measured = {name: us_per_event(way, values, rounds) for name, way in ways.items()}
    return {
        "bench": "decode",
        **{f"{name}_us_per_event": round(value, 2) for name, value in measured.items()},
        "events": events,
        "bytes_per_event": round(sum(map(len, values)) / events),
        "tokens": tokens,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.decode", description=(__doc__ or "").strip())
    parser.add_argument("-n", type=int, default=20_000, help="events")
    parser.add_argument("--tokens", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(json.dumps(run(options.n, options.tokens, options.seed, options.rounds)))


if __name__ == "__main__":
    main()
