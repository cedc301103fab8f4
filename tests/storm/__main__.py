"""`python -m tests.storm`: 1,000 swaps, 50 reorganisations and 30 kills on a real chain."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

from infra.embedded.clickhouse import ClickHouse
from infra.embedded.kafka import Kafka
from infra.embedded.stack import Stack
from tests.support.service import ROOT

# pytest finds the client by its own settings.
sys.path.insert(0, str(ROOT / "clients" / "python"))

from tests.storm.storm import Plan, play


def main() -> int:
    """Play one storm; print what happened, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    for field in dataclasses.fields(Plan):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    plan = Plan(**vars(parser.parse_args()))
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {text}", flush=True)

    directory = Path(tempfile.mkdtemp(prefix="storm-"))
    with Stack(directory / "engines", only=(Kafka, ClickHouse)) as engines:
        say(f"Kafka and ClickHouse run; logs in {directory}")
        outcome = play(plan, directory / "run", engines, say)
    for fault in outcome.faults:
        print(f"FAULT {fault}")
    print(json.dumps({**vars(outcome), "plan": vars(plan)}))
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
