"""What a source can carry, each part measured alone; see the parts for what they do.

    python -m bench.sources [--only logs,...] [--rounds 5]

Every part prints what it found, and the last line is one JSON object with all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from typing import Any, Final

from bench import ingest_http, source_chain, source_exchange, source_logs

PARTS: Final[dict[str, Callable[[int], dict[str, Any]]]] = {
    "logs": source_logs.measure,
    "chain": source_chain.measure,
    "exchange": source_exchange.measure,
    "ingest": ingest_http.measure,
}
"""The parts by name; each gets the number of rounds, of which the best counts."""


def run(names: list[str], rounds: int) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    found: dict[str, Any] = {}
    for name in names:
        found[name] = PARTS[name](rounds)
        print(f"{name}: {found[name]}", flush=True)
    return {
        "bench": "sources",
        **found,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.sources", description=(__doc__ or "").strip())
    parser.add_argument(
        "--only",
        default=",".join(PARTS),
        help=f"the parts to measure, with commas between: {', '.join(PARTS)}",
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    names = options.only.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"--only: {', '.join(unknown)}: give some of {', '.join(PARTS)}")
    print(json.dumps(run(names, options.rounds)))


if __name__ == "__main__":
    main()
