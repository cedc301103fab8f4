"""A Python client as a process, for tests: prints what it receives as JSON lines.

The environment has URL, CHANNEL, TOKENS, BUFFER and TOKEN_FILE, which is read for each token. With
HOLD set it reads no updates until a line arrives on stdin. client_probe.mjs does the same.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from swapclient import Backoff, Client, Gap, StatsUpdate, SwapClientError, TradesUpdate

env = os.environ


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


async def token() -> str:
    say(kind="token")
    return await asyncio.to_thread(Path(env["TOKEN_FILE"]).read_text)


async def main() -> None:
    options: dict[str, Any] = {"buffer": int(env["BUFFER"])} if "BUFFER" in env else {}
    async with Client(
        env["URL"],
        token,
        backoff=Backoff(longest_s=1.0, limited_s=0.5),
        on_change=lambda now: say(
            kind="change", state=now.state, stale=now.stale, error=str(client.error or "")
        ),
        on_refused=lambda why: say(
            kind="connection_refused",
            code=why.code,
            reason=why.reason,
            close_code=why.close_code,
            retry_in_ms=why.retry_in_s * 1_000,
            attempts=why.attempts,
        ),
    ) as client:
        updates: Any = client.subscribe(
            env["CHANNEL"],  # type: ignore[call-overload]
            tokens=env["TOKENS"].split(","),
            **options,
        )
        if "HOLD" in env:
            await asyncio.to_thread(sys.stdin.readline)
        try:
            async for update in updates:
                report(update)
        except SwapClientError as error:
            say(kind="ended", error=type(error).__name__, text=str(error))


def report(update: Any) -> None:
    match update:
        case TradesUpdate(token, snapshot, trades):
            rows = [[each.n, each.tx_hash] for each in trades]
            say(kind="trades", token=token, snapshot=snapshot, trades=rows)
        case StatsUpdate(token, snapshot, stats):
            row = msgspec.to_builtins(stats)
            say(kind="stats", token=token, snapshot=snapshot, stats=row)
        case Gap():
            say(kind="gap", **msgspec.to_builtins(update))
        case other:
            say(kind="refused", code=other.code, token=other.token)


asyncio.run(main())
