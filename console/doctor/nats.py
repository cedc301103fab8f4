"""Checks NATS: whether it answers, its version, and the settings of the running owners.

Owners announce their version and their settings every second. A process with other windows than
this environment counts other numbers, and nothing else would show that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aggregator.contracts.names import ALL_HEARTBEATS_SUBJECT
from aggregator.contracts.stats import Heartbeat
from aggregator.runtime.config import Config
from aggregator.runtime.version import VERSION
from console.doctor.finding import TIMEOUT_S, Finding

# Each partition is announced every second.
_LISTEN_S: Final = 2.5
_decode = msgspec.json.Decoder(Heartbeat).decode


def check(config: Config) -> list[Finding]:
    """Return the findings; one FAIL if NATS does not answer."""
    address = urlsplit(config.nats_url).netloc.rpartition("@")[2]
    try:
        version, heartbeats = asyncio.run(_ask(config.nats_url))
    except (OSError, TimeoutError, NatsError) as error:
        fix = "start it, or set NATS_URL to its address, with its token"
        return [Finding("FAIL", "nats", f"{address}: {error or type(error).__name__}", fix)]
    return [Finding("OK", "nats", f"{version} at {address}"), *of_owners(config, heartbeats)]


def of_owners(config: Config, heartbeats: Iterable[Heartbeat]) -> list[Finding]:
    """Return the differences between this environment and the owners of the heartbeats."""
    owners = {each.owner: each for each in heartbeats}
    if not owners:
        return [Finding("OK", "owners", "none is running: nothing to compare with")]
    found = []
    for name, owner in sorted(owners.items()):
        if owner.version != VERSION:
            said = f"{name} runs {owner.version or 'an older version'}, this is {VERSION}"
            fix = "finish the upgrade, or run the doctor of the version that runs"
            found.append(Finding("WARN", "version of owners", said, fix))
        for setting, here in config.counting.items():
            there = owner.settings.get(setting, here)
            if there != here:
                said = f"{name} counts with {there}, here it is {here}"
                fix = f"give every process the same {setting}, and restart those that differ"
                found.append(Finding("FAIL", f"{setting} of owners", said, fix))
    said = f"{len(owners)} of version {VERSION} with the settings of this environment"
    return found or [Finding("OK", "owners", said)]


async def _ask(url: str) -> tuple[str, list[Heartbeat]]:
    async def swallow(_error: Exception) -> None:
        """Ignore the error: `connect` raises it too."""

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
        heartbeats = await _heartbeats(client)
        version = client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}", heartbeats
    finally:
        await client.close()


async def _heartbeats(client: Client) -> list[Heartbeat]:
    """Return a heartbeat of each partition, or those that arrive in time."""
    received: dict[int, Heartbeat] = {}
    complete = asyncio.Event()

    async def receive(message: Msg) -> None:
        try:
            heartbeat = _decode(message.data)
        except msgspec.MsgspecError:
            return  # of a version with another format
        received[heartbeat.partition] = heartbeat
        if len(received) >= heartbeat.partitions:
            complete.set()

    await client.subscribe(ALL_HEARTBEATS_SUBJECT, cb=receive)
    await client.flush()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(complete.wait(), _LISTEN_S)
    return list(received.values())
