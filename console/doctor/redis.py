"""Checks Redis: version, clock, memory, and that it keeps what it is given."""

from __future__ import annotations

import time
from typing import Any, Final
from urllib.parse import urlsplit

from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from aggregator.redis.client import UNCHECKED, read_settings
from aggregator.runtime.config import Config
from aggregator.runtime.redis_client import redis_client
from console.doctor.finding import TIMEOUT_S, Finding, of_clock


def check(config: Config) -> list[Finding]:
    """Return the findings; one FAIL if Redis does not answer."""
    client = redis_client(config.redis_url, timeout_s=TIMEOUT_S, retries=False)
    address = urlsplit(config.redis_url).netloc.rpartition("@")[2]
    try:
        return _check(client, address)
    except (AuthenticationError, NoPermissionError) as error:
        fix = "give the user of REDIS_URL its password and the commands of docs/operations.md"
        said = f"{address} answers, but refuses this user: {error}"
        return [Finding("FAIL", "redis", said, fix)]
    except RedisError as error:
        fix = "start it, or set REDIS_URL to its address"
        return [Finding("FAIL", "redis", f"{address}: {error}", fix)]
    finally:
        client.close()


def _check(client: Any, address: str) -> list[Finding]:
    info = client.info()
    version = info.get("valkey_version") or info["redis_version"]
    name = "Valkey" if "valkey_version" in info else "Redis"
    found = [Finding("OK", "redis", f"{name} {version} at {address}")]
    found += _commands(client)
    found += _settings(client)
    found += _memory(info)
    before = time.time_ns()
    seconds, micros = client.time()
    here_ms = (before + time.time_ns()) // 2_000_000
    found.append(of_clock("clock of redis", seconds * 1000 + micros // 1000 - here_ms))
    return found


_WANTED: Final = {
    "maxmemory-policy": ("noeviction", "or it evicts the state of partitions"),
    "appendonly": ("yes", "or a restart loses the state of partitions"),
}


def _commands(client: Any) -> list[Finding]:
    try:
        client.execute_command("HSCAN", "doctor:absent", 0, "NOVALUES")
    except NoPermissionError:
        raise
    except ResponseError as error:
        fix = "run Valkey 8, Redis 7.4 or newer"
        return [Finding("FAIL", "redis commands", f"HSCAN NOVALUES: {error}", fix)]
    return []


def _settings(client: Any) -> list[Finding]:
    settings = read_settings(client)
    if settings is None:
        wanted = " and ".join(f"{name} {value}" for name, (value, _) in _WANTED.items())
        fix = f"make sure that it has {wanted}"
        return [Finding("WARN", "redis settings", UNCHECKED, fix)]
    found = []
    for name, (wanted, why) in _WANTED.items():
        value = settings[name]
        fix = f"set it to {wanted}, {why}"
        if value is None:
            found.append(Finding("WARN", f"redis {name}", "this user may not read it", fix))
        elif value != wanted:
            found.append(Finding("FAIL", f"redis {name}", value, fix))
        else:
            found.append(Finding("OK", f"redis {name}", value))
    return found


def _memory(info: dict[str, Any]) -> list[Finding]:
    used, most = int(info["used_memory"]), int(info.get("maxmemory", 0))
    said = f"{used / 2**20:.0f} MiB used"
    if not most:
        return [Finding("OK", "redis memory", f"{said}, no maxmemory")]
    said += f" of {most / 2**20:.0f}"
    if used > 0.8 * most:
        fix = "give it more, or shorten WINDOWS and MARKER_TTL: docs/operations.md, Redis memory"
        return [Finding("WARN", "redis memory", said, fix)]
    return [Finding("OK", "redis memory", said)]
