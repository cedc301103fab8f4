"""How a source process ends, what it makes of a lost ownership, and what its probes say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

import pytest

from aggregator.contracts.sources import SourceState, SourceStatus
from aggregator.runtime.errors import Fatal, Fenced
from aggregator.runtime.health import Health
from sources.metrics import SourceMetrics
from sources.ports import SourceJournal, SourceSink
from sources.process import Follow, readiness_of, run
from tests.fakes.sources import MemoryBroker, MemoryJournal, MemorySink


class Ports:
    """Opens ports in memory and notes in which order they are closed."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.closed: list[str] = []

    def __call__(self, _note: object) -> tuple[SourceJournal, ClosedSink]:
        return ClosedJournal(self), ClosedSink(self)


class ClosedSink(MemorySink):
    def __init__(self, ports: Ports) -> None:
        super().__init__(ports.broker)
        self._ports = ports

    async def close(self) -> None:
        self._ports.closed.append("sink")


class ClosedJournal(MemoryJournal):
    def __init__(self, ports: Ports) -> None:
        super().__init__("eth", ports.broker)
        self._ports = ports

    async def close(self) -> None:
        self._ports.closed.append("journal")
        await super().close()


async def running(
    follow: Follow,
    ports: Ports,
    stop: threading.Event | None = None,
    shown: list[SourceStatus] | None = None,
) -> None:
    """Run to the end; the statuses go to `shown`."""
    shown = [] if shown is None else shown
    await run(
        follow,
        SourceMetrics("eth", "evm", "ethereum"),
        ports,
        stop=stop or threading.Event(),
        health=Health(),
        show=shown.append,
    )


async def test_it_ends_with_its_backfill_and_gives_the_source_up() -> None:
    async def follow(sink: SourceSink, journal: SourceJournal, metrics: SourceMetrics) -> None:
        await journal.own()

    ports = Ports()
    await running(follow, ports)
    assert ports.closed == ["sink", "journal"], "nothing may be under way once another one owns it"
    await MemoryJournal("eth", ports.broker).own()


async def test_a_signal_ends_it_in_order() -> None:
    stop = threading.Event()

    async def follow(sink: SourceSink, journal: SourceJournal, metrics: SourceMetrics) -> None:
        await journal.own()
        stop.set()
        await asyncio.Event().wait()

    ports = Ports()
    await running(follow, ports, stop)
    assert ports.closed == ["sink", "journal"]


async def test_a_lost_ownership_is_waited_for_again() -> None:
    owned: list[Mapping[str, bytes]] = []

    async def follow(sink: SourceSink, journal: SourceJournal, metrics: SourceMetrics) -> None:
        owned.append(await journal.own())
        if len(owned) == 1:
            await journal.write({"a": b"1"})
            raise ExceptionGroup("tasks", [Fenced("another process owns it")])

    await running(follow, Ports())
    assert owned == [{}, {"a": b"1"}]


async def test_a_fault_ends_it_and_stands_in_its_status() -> None:
    async def follow(sink: SourceSink, journal: SourceJournal, metrics: SourceMetrics) -> None:
        raise ExceptionGroup("tasks", [Fatal("wrong chain")])

    shown: list[SourceStatus] = []
    ports = Ports()
    with pytest.raises(Fatal, match="wrong chain"):
        await running(follow, ports, shown=shown)
    assert (shown[-1].state, shown[-1].note) == ("stopped", "wrong chain")
    assert ports.closed == ["sink", "journal"]


@pytest.mark.parametrize(
    ("state", "note", "ready"),
    [
        ("standby", "", ([], ["source eth has another owner; this process stands by"])),
        ("starting", "", (["starting"], [])),
        ("catching_up", "", ([], ["catching up"])),
        ("live", "", ([], [])),
        ("waiting", "node a: refused", (["node a: refused"], [])),
        ("stopped", "wrong chain", (["wrong chain"], [])),
    ],
)
def test_readiness(state: SourceState, note: str, ready: tuple[list[str], list[str]]) -> None:
    assert readiness_of(SourceStatus("eth", "evm", "ethereum", state, 0, note)) == ready


def test_a_missing_reference_price_is_reported() -> None:
    status = SourceStatus("eth", "evm", "ethereum", "live", 0, unpriced_tokens=("0xc0",))
    assert readiness_of(status) == ([], ["no reference price of 0xc0"])
