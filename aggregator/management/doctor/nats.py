"""NATS: whether it answers, and which version."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.errors import Error as NatsError

from aggregator.config import Config
from aggregator.management.doctor.finding import TIMEOUT_S, Finding


def check(config: Config) -> list[Finding]:
    """One finding."""
    address = urlsplit(config.nats_url).netloc.rpartition("@")[2]
    try:
        version = asyncio.run(_version(config.nats_url))
    except (OSError, TimeoutError, NatsError) as error:
        fix = "start it, or set NATS_URL to where it is, with its token"
        return [Finding("FAIL", "nats", f"{address}: {error or type(error).__name__}", fix)]
    return [Finding("OK", "nats", f"{version} at {address}")]


async def _version(url: str) -> str:
    async def swallow(_error: Exception) -> None:
        """The exception that `connect` raises says it."""

    client = Client()
    async with asyncio.timeout(TIMEOUT_S):
        await client.connect(
            url,
            name="swaps-doctor",
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            error_cb=swallow,
        )
        try:
            await client.flush()
            version = client.connected_server_version
            return f"{version.major}.{version.minor}.{version.patch}"
        finally:
            await client.close()
