"""A process that owns a source's journal: `python -m tests.support.source_owner SOURCE`.

Each line of its input is written to the journal under the key `line`; it answers "owned" first, and
then "ok" or "fenced" for each line.
"""

from __future__ import annotations

import asyncio
import os
import sys

import structlog

from aggregator.runtime.config import load
from aggregator.runtime.errors import Fenced
from sources.kafka import KafkaJournal


async def main(source: str) -> None:
    journal = KafkaJournal(load(os.environ), source)
    await journal.own()
    print("owned", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        try:
            await journal.write({"line": line.encode()})
        except Fenced:
            print("fenced", flush=True)
        else:
            print("ok", flush=True)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(sys.argv[1]))
