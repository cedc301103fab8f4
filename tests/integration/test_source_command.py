"""`manage.py source` against a broker on which a source runs, and has stopped."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from django.core.management import CommandError, call_command

from aggregator.member.topics import ensure_sources_topic
from aggregator.runtime.config import Config, load
from infra.embedded.stack import Stack
from sources.events import Outgoing
from sources.evm.history import BEGIN, CHAIN, BlockHistory
from sources.evm.types import BlockRef
from sources.kafka import KafkaJournal
from tests.support.processes import wait_until


def known(config: Config) -> bool:
    admin: Any = AdminClient({"bootstrap.servers": config.kafka_bootstrap})
    return config.kafka_sources_topic in admin.list_topics(timeout=10).topics


async def said(*arguments: str) -> str:
    out = io.StringIO()
    await asyncio.to_thread(call_command, "source", *arguments, stdout=out, stderr=out)
    return out.getvalue()


async def refusal(*arguments: str) -> str:
    with pytest.raises(CommandError) as refused:
        await said(*arguments)
    return str(refused.value)


async def test_a_source_is_shown_and_begins_at_another_block(
    stack: Stack, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    name = f"eth-{uuid4().hex[:8]}"
    config = load(stack.env() | {"KAFKA_SOURCES_TOPIC": f"{name}.topic"})
    settings.SWAPS = config
    assert "run manage.py ensure_topology" in await refusal("list")
    ensure_sources_topic(config)
    await asyncio.to_thread(wait_until, lambda: known(config), 30, "the topic")
    assert await said("list") == "no source has run yet\n"

    journal = KafkaJournal(config, name)
    await journal.own()
    history = BlockHistory.empty(119, 0, keep=256)
    await journal.write({CHAIN: b'{"chain_id":1,"genesis":"0xaa"}', **history.move(120, None)})
    await journal.write(history.add(BlockRef(120, "0x78", "0x77"), [Outgoing(b"k", b"{}")]))
    [shown] = map(json.loads, (await said("list", "--json")).splitlines())
    assert shown.pop("owner")
    position = "block 120 added"
    assert shown == {"name": name, "kind": "evm", "members": 1, "position": position}
    assert "stop run_source first" in await refusal("reset", name, "--from-block", "7", "--yes")

    await journal.close()
    assert f"Known: {name}" in await refusal("show", "other")
    assert "give --yes" in await refusal("reset", name, "--from-block", "7")
    done = await said("reset", name, "--from-block", "7", "--yes")
    assert done.endswith(f"source {name} begins at 7 when it starts next\n")
    lines = (await said("show", name)).splitlines()
    assert lines[0] == f"{name}  evm  stopped  {position}; begins at 7 next"
    assert 'begin: {"from_block":7}' in lines
    assert any(line.startswith('block:120: {"seq":2,') for line in lines)

    again = KafkaJournal(config, name)
    assert (await again.own())[BEGIN] == b'{"from_block":7}'
    await again.close()
