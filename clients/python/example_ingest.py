"""Sends one swap. Needs WEB_URL and TOKEN with the scope swaps:write: see clients/README.md."""

import asyncio
import os
import time
import uuid

from swapclient import ingest


async def main() -> None:
    now_ms = time.time_ns() // 1_000_000
    swap = {
        "chain": "example",
        "tx_hash": uuid.uuid4().hex,
        "log_index": 0,
        "timestamp": now_ms,
        "token": "HELLO",
        "side": "buy",
        "amount": "2",
        "amount_usd": "10.50",
    }
    report = await ingest(os.environ["WEB_URL"], os.environ["TOKEN"], [swap])
    print(report.accepted, report.rejected, report.errors)  # noqa: T201


asyncio.run(main())
