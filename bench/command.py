"""The command line that all benchmarks share: error reporting and the JSON line at the end."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

from aggregator.runtime.errors import SwapsError
from bench.service import WrongResult
from infra.embedded.errors import EmbeddedError


def main(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], dict[str, Any]]
) -> None:
    """Run a benchmark; print its result, the load before and after and the machine as one line."""
    options = parser.parse_args()
    name = parser.prog
    load_before = os.getloadavg()[0]
    try:
        result = run(options)
    except (WrongResult, EmbeddedError, SwapsError) as error:
        sys.exit(f"{name} failed: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted, nothing is left running")
    machine = {
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps({"bench": name.removeprefix("bench.")} | result | machine))


def percentile(values: list[float], share: float) -> float:
    """Return the nearest-rank percentile; `share` is from 0 to 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
