"""The ownership of a source when its owner is killed, or stopped for longer than Kafka waits."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from aggregator.member.topics import ensure_sources_topic
from aggregator.runtime.config import load
from infra.embedded.stack import Stack
from sources.kafka import KafkaJournal

ROOT = Path(__file__).parents[2]
WITHIN_S = 60


class OwnerChild:
    """A child process that owns a source."""

    def __init__(self, env: dict[str, str], source: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.source_owner", source],
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def write(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.answer()


@contextmanager
def owner(env: dict[str, str], source: str) -> Iterator[OwnerChild]:
    child = OwnerChild(env, source)
    try:
        assert child.answer() == "owned"
        yield child
    finally:
        child.process.kill()
        child.process.communicate()


async def test_a_killed_owner_is_replaced_and_a_stopped_one_is_refused(stack: Stack) -> None:
    name = f"owners-{uuid4().hex[:8]}"
    env = stack.env() | {"KAFKA_SOURCES_TOPIC": name}
    config = load(env)
    ensure_sources_topic(config)
    with owner(env, f"{name}-killed") as killed, owner(env, f"{name}-stopped") as stopped:
        assert (killed.write("a"), stopped.write("b")) == ("ok", "ok")
        killed.process.kill()
        stopped.process.send_signal(signal.SIGSTOP)
        after_kill = KafkaJournal(config, f"{name}-killed")
        after_stop = KafkaJournal(config, f"{name}-stopped")
        async with asyncio.timeout(WITHIN_S):
            found = await asyncio.gather(after_kill.own(), after_stop.own())
        assert found == [{"line": b"a"}, {"line": b"b"}]
        await after_stop.write({"line": b"c"})

        stopped.process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(stopped.write, "zombie") == "fenced"
        await after_stop.write({"other": b"d"})
        await after_stop.close()
        await after_kill.close()
    last = KafkaJournal(config, f"{name}-stopped")
    assert await last.own() == {"line": b"c", "other": b"d"}
    await last.close()
