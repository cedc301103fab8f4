"""Latency of candles and trades over HTTP, with a month of swaps in the archive.

    python -m bench.history [--rows 50000000]

Generates the swaps inside ClickHouse (INSERT SELECT), day by day through the same tables and views
as the archiver's, then sends requests to a Daphne process as a client does: the 1m candles of one
token's day, and the newest 100 trades before noon of that day. Tokens are drawn by their number of
trades, so busy tokens are requested most; the busiest token is also measured separately. A sample
of the answers is compared with ClickHouse's sums over the raw rows. The last line is one JSON
object.

Loading takes most of the time. With --dir the data is kept: run once with --load-only, then as
often as you like without it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.schema import ensure_schema
from aggregator.clickhouse.tables import TABLES
from aggregator.contracts.units import DAY_MS
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import load
from api.auth.demo_issuer import ensure_keys, issue
from bench import command
from bench.command import percentile
from bench.service import ROOT, WrongResult, say
from infra.embedded.clickhouse import ClickHouse as ClickHouseEngine
from infra.embedded.engine import Process
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port
from infra.embedded.redis import Redis
from infra.embedded.s3 import S3
from infra.embedded.stack import Stack

TARGET_MS = 100.0
_TOKENS = 4_096
_CHECKS = 20
_COLD = 200
_INSERT_ROWS = 250_000

# Hashes and amounts have full entropy, so that they compress no better than those of a chain.
# Token numbers are log-uniform: the busiest 1 of 4,096 has a twelfth of all swaps.
_SWAPS_OF_A_DAY = """
INSERT INTO raw_swaps (chain, token, timestamp, sign, removed, tx_hash, log_index, block_number,
    block_hash, symbol, quote, venue, pool, trader, side, amount, amount_usd, price_usd, marker,
    verdict, `partition`, `offset`, ingested_at)
WITH
    toUInt32(exp2(12 * rand(1) / 4294967296)) AS n,
    %(begin)s + intDiv(number * 86400000, %(rows)s) AS ms,
    (1 + n) * exp(0.1 * sin(ms / 7200000 + n)) AS price,
    toUInt64(exp2(10 + 20 * rand(2) / 4294967296)) AS micros
SELECT
    'ethereum', concat('0x', leftPad(lower(hex(n)), 40, '0')),
    fromUnixTimestamp64Milli(ms, 'UTC'), 1, 0,
    concat('0x', lower(hex(randomFixedString(32)))), rand(3) %% 400, intDiv(ms, 12000),
    concat('0x', lower(hex(SHA256(toString(intDiv(ms, 12000)))))),
    concat('T', toString(n)), 'USDC', ['uniswap-v2', 'uniswap-v3', 'sushi'][1 + n %% 3],
    concat('0x', leftPad(lower(hex(n + 100000)), 40, '0')),
    concat('0x', lower(substring(hex(SHA256(toString(toUInt32(exp2(17 * rand(4) / 4294967296))))),
        1, 40))),
    if(rand(5) %% 2 = 0, 'buy', 'sell'),
    toDecimal256(micros, 18) / toDecimal256(1000000, 0),
    reinterpret(toInt64(micros * price), 'Decimal(18, 6)'), price,
    randomFixedString(16), 'C', number %% 4, %(offset)s + intDiv(number, 4),
    fromUnixTimestamp64Milli(ms + 900, 'UTC')
FROM numbers(%(skip)s, %(count)s)
"""


class Loaded(NamedTuple):
    """What was loaded: the first day (epoch ms), the number of days, the figures of the load."""

    first: int
    days: int
    report: dict[str, Any]


def fill(clickhouse: ClickHouseClient, rows: int, days: int) -> Loaded:
    """Insert `rows` swaps over the last whole days and wait until the merges are done."""
    last = wall_ms() // DAY_MS * DAY_MS
    first, each = last - days * DAY_MS, rows // days
    began = time.perf_counter()
    for day in range(days):
        fill_day(clickhouse, first + day * DAY_MS, each, day * each)
        passed = time.perf_counter() - began
        say(f"{(day + 1) * each:,} of {rows:,} rows, {(day + 1) * each / passed:,.0f} rows/s")
    seconds = time.perf_counter() - began
    _until_merged(clickhouse)
    ((count, net, sums),) = clickhouse.execute(
        "SELECT (SELECT count() FROM raw_swaps), (SELECT sum(trades) FROM daily_token_agg), "
        "(SELECT sum(trades) FROM candles_1m)"
    )
    if not count == net == sums == each * days:
        raise WrongResult(f"{each * days:,} rows were made; the tables hold {count, net, sums}")
    report = {
        "rows": count,
        "days": days,
        "load_s": round(seconds, 1),
        "load_rows_per_s": round(count / seconds),
        "merge_s": round(time.perf_counter() - began - seconds, 1),
        "disk_bytes": _disk_bytes(clickhouse),
    }
    return Loaded(first, days, report)


def fill_day(clickhouse: ClickHouseClient, begin: int, rows: int, offset: int) -> None:
    """Insert one day of swaps, in blocks that fit into the memory of a small server."""
    for skip in range(0, rows, _INSERT_ROWS):
        count = min(_INSERT_ROWS, rows - skip)
        params = {"begin": begin, "rows": rows, "offset": offset, "skip": skip, "count": count}
        clickhouse.execute(_SWAPS_OF_A_DAY, params)


def _until_merged(clickhouse: ClickHouseClient) -> None:
    deadline, quiet = time.monotonic() + 600, 0
    while quiet < 10 and time.monotonic() < deadline:
        ((running,),) = clickhouse.execute("SELECT count() FROM system.merges")
        quiet = 0 if running else quiet + 1
        time.sleep(0.2)


def _disk_bytes(clickhouse: ClickHouseClient) -> dict[str, int]:
    rows = clickhouse.execute(
        "SELECT table, toInt64(sum(bytes_on_disk)) FROM system.parts WHERE active "
        "AND database = currentDatabase() AND table IN %(tables)s GROUP BY table",
        {"tables": TABLES},
    )
    return dict(rows)


class TokenDay(NamedTuple):
    """One token's day, as a client requests it."""

    token: int
    day: int

    @property
    def path(self) -> str:
        """The token's address below /api/tokens."""
        return f"/api/tokens/ethereum:0x{self.token:040x}"

    def candles(self, client: httpx.Client) -> list[Any]:
        """Request the day's 1m candles."""
        span = {"interval": "1m", "from": self.day, "to": self.day + DAY_MS}
        return _rows(client.get(f"{self.path}/candles", params=span), "candles")

    def trades(self, client: httpx.Client) -> list[Any]:
        """Request the newest 100 trades before noon."""
        until = {"to": self.day + DAY_MS // 2, "limit": 100}
        return _rows(client.get(f"{self.path}/trades", params=until), "trades")


def _rows(answer: httpx.Response, name: str) -> list[Any]:
    if answer.status_code != 200:
        raise WrongResult(f"{answer.request.url}: {answer.status_code} {answer.text}")
    rows: list[Any] = answer.json()[name]
    return rows


def draw(loaded: Loaded, count: int, seed: int) -> Iterator[TokenDay]:
    """Draw token days, each token in proportion to its number of trades."""
    source = random.Random(seed)
    for _ in range(count):
        day = loaded.first + source.randrange(loaded.days) * DAY_MS
        yield TokenDay(int(2 ** (12 * source.random())), day)


def check(clickhouse: ClickHouseClient, client: httpx.Client, token_days: list[TokenDay]) -> None:
    """Compare answers with the raw rows. Raises WrongResult for a difference."""
    for token_day in token_days:
        token = {"token": f"0x{token_day.token:040x}", "day": token_day.day // 1000}
        ((trades, volume),) = clickhouse.execute(
            "SELECT count(), toString(sum(amount_usd)) FROM raw_swaps WHERE chain = 'ethereum' "
            "AND token = %(token)s AND toUnixTimestamp(toStartOfDay(timestamp)) = %(day)s",
            token,
        )
        candles = token_day.candles(client)
        found = sum(candle["trades"] for candle in candles)
        micros = sum(int(candle["volume_usd"].replace(".", "")) for candle in candles)
        whole, _, part = (volume or "0").partition(".")
        if found != trades or micros != int(whole + part.ljust(6, "0")):
            raise WrongResult(f"{token_day}: candles count {found}, raw_swaps {trades}")


def measure(name: str, client: httpx.Client, token_days: list[TokenDay]) -> dict[str, Any]:
    """Measure sequential requests for candles and for trades, in milliseconds."""
    result: dict[str, Any] = {}
    for what in ("candles", "trades"):
        took, rows = [], 0
        for token_day in token_days:
            began = time.perf_counter()
            rows += len(getattr(token_day, what)(client))
            took.append((time.perf_counter() - began) * 1_000)
        result[what] = {
            "p50_ms": round(percentile(took, 0.5), 1),
            "p99_ms": round(percentile(took, 0.99), 1),
            "max_ms": round(max(took), 1),
            "rows_per_answer": round(rows / len(token_days)),
        }
        say(f"{name}, {what}: p50 {result[what]['p50_ms']} ms, p99 {result[what]['p99_ms']} ms")
    return result


@contextmanager
def web(stack: Stack, directory: Path) -> Iterator[httpx.Client]:
    """Run Daphne and yield a client that may read history, with rate limits out of its reach."""
    key, port = ensure_keys(directory / "issuer"), free_port()
    env = {
        **os.environ,
        **stack.env(),
        "DATABASE_FILE": str(directory / "db.sqlite3"),
        "JWT_PUBLIC_KEY_FILE": str(directory / "issuer" / "public.pem"),
        "DJANGO_SECRET_KEY": random.randbytes(32).hex(),
        "RATE_SUBJECT": "100000",
        "RATE_SUBJECT_BURST": "100000",
        "RATE_IP": "100000",
        "RATE_IP_BURST": "100000",
    }
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "-v", "0"], cwd=ROOT, env=env, check=True
    )
    process = Process("web", directory / "web.log", stack.guard)
    command = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port)]
    process.launch([*command, "swapsite.asgi:application"], env, ROOT)
    token = issue(
        key,
        subject="bench",
        issuer="swaps-demo",
        audience="swaps",
        scope="history:read",
        issued_at=int(time.time()),
        ttl_ms=DAY_MS,
    )
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )

    def alive() -> bool:
        try:
            return client.get("/healthz").status_code == 200
        except httpx.TransportError as error:
            raise ConnectionError(str(error)) from error

    try:
        process.wait_ready(alive)
        yield client
    finally:
        client.close()
        process.stop(10)


@contextmanager
def _place(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="bench-history-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _loaded(clickhouse: ClickHouseClient, options: argparse.Namespace, directory: Path) -> Loaded:
    """Fill the tables, unless an earlier run in the same directory has done so."""
    kept = directory / "loaded.json"
    if kept.exists():
        return Loaded(**json.loads(kept.read_text()))
    loaded = fill(clickhouse, options.rows, options.days)
    kept.write_text(json.dumps(loaded._asdict()))
    return loaded


def run(options: argparse.Namespace) -> dict[str, Any]:
    """See the module's text."""
    with ExitStack() as closing:
        directory = closing.enter_context(_place(options.dir))
        room = 0 if (directory / "loaded.json").exists() else options.rows * 250
        engines = (S3, Nats, Redis, ClickHouseEngine)
        stack = Stack(directory, only=engines, report=say, min_free_bytes=room)
        closing.enter_context(stack)
        config = load({**stack.env(), "ARCHIVE_HOT": "365d", "ARCHIVE_KEEP": "366d"})
        clickhouse = ClickHouseClient(config.clickhouse_url, receive_s=900)
        closing.callback(clickhouse.close)
        ensure_schema(clickhouse, config)
        loaded = _loaded(clickhouse, options, directory)
        if options.load_only:
            return loaded.report
        client = closing.enter_context(web(stack, directory))
        token_days = list(draw(loaded, options.requests, options.seed))
        check(clickhouse, client, token_days[:_CHECKS])
        # The caches of a freshly filled server are cold, so the first answers are reported
        # separately.
        cold = measure("first answers", client, list(draw(loaded, _COLD, options.seed + 1)))
        drawn = measure("tokens as traded", client, token_days)
        busiest = [TokenDay(1, token_day.day) for token_day in token_days[: options.requests // 2]]
        result = {**loaded.report, "requests": options.requests, **drawn, "first_answers": cold}
        result["busiest_token"] = measure("the busiest token", client, busiest)
        worst = max(drawn["candles"]["p99_ms"], drawn["trades"]["p99_ms"])
        return {**result, "target_ms": TARGET_MS, "within_target": worst < TARGET_MS}


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="bench.history", description=(__doc__ or "").strip())
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--days", type=int, default=30, help="days that the rows cover")
    parser.add_argument("--requests", type=int, default=1_000, help="requests of each kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--dir", type=Path, help="keep the data here, and reuse it in a later run")
    parser.add_argument("--load-only", action="store_true", help="load the data, measure nothing")
    command.main(parser, run)


if __name__ == "__main__":
    main()
