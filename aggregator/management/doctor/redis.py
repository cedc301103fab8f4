"""Redis: what must not be lost is neither evicted nor kept in memory alone."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from aggregator.config import Config
from aggregator.management.doctor.finding import TIMEOUT_S, Finding, of_clock


def check(config: Config) -> list[Finding]:
    """The findings, one FAIL where it does not answer."""
    client = redis.Redis.from_url(
        config.redis_url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    address = urlsplit(config.redis_url).netloc.rpartition("@")[2]
    try:
        return _check(client, address)
    except RedisError as error:
        fix = "start it, or set REDIS_URL to where it is"
        return [Finding("FAIL", "redis", f"{address}: {error}", fix)]
    finally:
        client.close()


def _check(client: Any, address: str) -> list[Finding]:
    info = client.info()
    version = info.get("valkey_version") or info["redis_version"]
    name = "Valkey" if "valkey_version" in info else "Redis"
    found = [Finding("OK", "redis", f"{name} {version} at {address}")]
    if not client.execute_command("COMMAND", "INFO", "MSETEX"):
        fix = "run Valkey 9.1, Redis 8.4 or newer"
        found.append(Finding("FAIL", "redis commands", "MSETEX is missing", fix))
    found.append(
        _setting(
            client, "maxmemory-policy", "noeviction", "or swaps count twice: it evicts markers"
        )
    )
    found.append(_setting(client, "appendonly", "yes", "or a restart forgets every marker"))
    found += _memory(info)
    before = time.time_ns()
    seconds, micros = client.time()
    here_ms = (before + time.time_ns()) // 2_000_000
    found.append(of_clock("clock of redis", seconds * 1000 + micros // 1000 - here_ms))
    return found


def _setting(client: Any, name: str, wanted: str, why: str) -> Finding:
    what = f"redis {name}"
    value = client.config_get(name).get(name)
    if value is None:
        fix = f"see to it yourself that it is {wanted}, {why}"
        return Finding("WARN", what, "this user may not read it", fix)
    if value != wanted:
        return Finding("FAIL", what, value, f"set it to {wanted}, {why}")
    return Finding("OK", what, value)


def _memory(info: dict[str, Any]) -> list[Finding]:
    used, most = int(info["used_memory"]), int(info.get("maxmemory", 0))
    said = f"{used / 2**20:.0f} MiB used"
    if not most:
        return [Finding("OK", "redis memory", f"{said}, no limit of its own")]
    said += f" of {most / 2**20:.0f}"
    if used > 0.8 * most:
        fix = "give it more, or shorten WINDOWS and MARKER_TTL: docs/operations.md, Redis memory"
        return [Finding("WARN", "redis memory", said, fix)]
    return [Finding("OK", "redis memory", said)]
