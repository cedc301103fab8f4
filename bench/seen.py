"""CPU time and memory of the decided ids: deciding new ids, forgetting old ones, saving, restoring.

    python -m bench.seen [--ids 25000000] [--batch 2000]

Every record is a new id, which is the slowest case. First the ids are filled in and the memory
grows; then as many again are decided while the oldest are forgotten. Times of a batch are given as
the mean, which includes growing, and as the median, which does not and which other load on the
machine disturbs less. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import ABSENT, RECORD, SWAP, Swaps
from aggregator.seen.seen import Seen, compile_seen
from aggregator.seen.words import BLOCK_WORDS
from bench import command

RULES = {"grace_ms": 10**12, "max_future_ms": 300_000}
MS_PER_BLOCK = 1_000
ROUNDS = 3


def batch(first: int, count: int, random: np.random.Generator) -> Swaps:
    """Return records of new ids; the log clock moves MS_PER_BLOCK per block."""
    swaps, records = np.zeros(count, SWAP), np.zeros(count, RECORD)
    swaps["offset"] = np.arange(first, first + count)
    swaps["timestamp"] = records["recorded"] = swaps["offset"] * MS_PER_BLOCK // BLOCK_WORDS
    records["origin_partition"] = records["origin_offset"] = ABSENT
    markers = random.integers(0, 2**64, (count, 2), np.uint64)
    return Swaps(swaps, records, markers, np.empty((count, 0, 2)), np.empty(0, np.uint8), [])


def decide(seen: Seen, ids: int, size: int, random: np.random.Generator) -> Array:
    """Decide new ids; return the CPU nanoseconds per id of each batch."""
    times, away = [], np.zeros(size, np.bool_)
    for _ in range(0, ids, size):
        swaps = batch(seen.next_offset, size, random)
        begun = time.process_time_ns()
        seen.judge(swaps, away)
        times.append((time.process_time_ns() - begun) / size)
    return np.array(times)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the figures."""
    compile_seen()
    ids, size, random = options.ids, options.batch, np.random.default_rng(1)
    seen = Seen(ttl_ms=ids * MS_PER_BLOCK // BLOCK_WORDS, next_offset=0, **RULES)
    filled = decide(seen, ids, size, random)
    full = {"ids": seen.ids, "bytes_per_id": round(seen.memory_bytes / seen.ids, 1)}
    steady = decide(seen, ids, size, random)
    begun = time.process_time()
    saved = seen.whole()
    whole_s = time.process_time() - begun
    restored_s = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        restored = Seen.restore(saved.header, saved.blocks, saved.sections, ttl_ms=10**9, **RULES)
        restored_s.append(round(time.process_time() - begun, 2))
        assert restored.ids == seen.ids
        del restored
    return {
        **full,
        "fill_ns_per_id": {"mean": round(filled.mean()), "median": round(np.median(filled))},
        "longest_batch_ms": round(filled.max() * size / 1e6),
        "steady_ns_per_id": {"mean": round(steady.mean()), "median": round(np.median(steady))},
        "whole_save_s": round(whole_s, 2),
        "restore_s": restored_s,
        "restored_ids": seen.ids,
        "batch": size,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="bench.seen", description=__doc__)
    parser.add_argument("--ids", type=int, default=25_000_000)
    parser.add_argument("--batch", type=int, default=2_000)
    command.main(parser, run)


if __name__ == "__main__":
    main()
