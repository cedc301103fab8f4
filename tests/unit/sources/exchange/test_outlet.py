"""The queue to Kafka: progress is noted after what it covers, and memory is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from sources.events import Outgoing
from sources.exchange.outlet import SymbolProgress, TradeOutlet
from tests.fakes.sources import MemoryBroker, MemoryJournal, MemorySink


class Counted:
    """A ledger whose journal entry is the number of records that were put."""

    def __init__(self) -> None:
        self.put = 0
        self.acknowledged = 0
        self.until: list[int] = []

    def progress(self) -> SymbolProgress:
        return SymbolProgress({"n": b"%d" % self.put} if self.put else {}, self.put)

    def sent(self, count: int) -> None:
        self.acknowledged += count

    def covered(self, until_ms: int) -> None:
        self.until.append(until_ms)


class Checked(MemorySink):
    """A sink that yields in the middle, so that more is put meanwhile."""

    async def send(self, records: Sequence[Outgoing]) -> None:
        await asyncio.sleep(0)
        await super().send(records)


class Journal(MemoryJournal):
    """A journal that refuses progress ahead of what was sent."""

    async def write(self, entries: Mapping[str, bytes | None]) -> None:
        assert int(entries["n"] or b"") <= len(self.broker.records)
        await super().write(entries)


def record(number: int) -> Outgoing:
    return Outgoing(b"k", b"%d" % number)


async def test_progress_is_noted_after_its_records_in_any_interleaving() -> None:
    broker, ledger = MemoryBroker(), Counted()
    journal = Journal("test", broker)
    await journal.own()
    outlet = TradeOutlet(Checked(broker), journal, ledger, journal_s=0, clock=lambda: 0.0)
    task = asyncio.create_task(outlet.run())
    for number in range(500):
        ledger.put += 1
        outlet.put(record(number))
        if number % 7 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while journal.entries.get("n") != b"500":  # noqa: ASYNC110
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert [int(each.value) for each in broker.records] == list(range(500))
    assert (ledger.acknowledged, ledger.until[-1]) == (500, 500)


@pytest.mark.parametrize("passes", range(1, 9))
async def test_a_cancelled_outlet_notes_what_it_was_given(passes: int) -> None:
    broker, ledger = MemoryBroker(), Counted()
    journal = Journal("test", broker)
    await journal.own()
    outlet = TradeOutlet(Checked(broker), journal, ledger, journal_s=60, clock=lambda: 0.0)
    task = asyncio.create_task(outlet.run())
    for number in range(20):
        ledger.put += 1
        outlet.put(record(number))
        if number == 10:
            for _ in range(passes):
                await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert journal.entries["n"] == b"20"
    assert {int(each.value) for each in broker.records} == set(range(20))


async def test_the_first_trades_are_noted_immediately() -> None:
    broker, ledger = MemoryBroker(), Counted()
    journal = Journal("test", broker)
    await journal.own()
    outlet = TradeOutlet(Checked(broker), journal, ledger, journal_s=60, clock=lambda: 0.0)
    task = asyncio.create_task(outlet.run())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while not ledger.until:  # noqa: ASYNC110
            await asyncio.sleep(0)
        ledger.put += 1
        outlet.put(record(0))
        while "n" not in journal.entries:  # noqa: ASYNC110
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})


async def test_a_full_queue_says_so_and_has_room_again_when_half_is_sent() -> None:
    broker, ledger = MemoryBroker(), Counted()
    broker.up.clear()
    journal = MemoryJournal("test", broker)
    await journal.own()
    outlet = TradeOutlet(
        MemorySink(broker), journal, ledger, journal_s=1, clock=lambda: 0.0, capacity=4
    )
    task = asyncio.create_task(outlet.run())
    for number in range(4):
        assert not outlet.full
        outlet.put(record(number))
    assert outlet.full
    waiting = asyncio.create_task(outlet.room())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    broker.up.set()
    async with asyncio.timeout(10):
        await waiting
    assert not outlet.full
    task.cancel()


async def test_a_failure_of_the_sink_ends_it() -> None:
    class Failing(MemorySink):
        async def send(self, records: Sequence[Outgoing]) -> None:
            raise ZeroDivisionError(len(records))

    outlet = TradeOutlet(Failing(), MemoryJournal(), Counted(), journal_s=1, clock=lambda: 0.0)
    outlet.put(record(1))
    with pytest.raises(ZeroDivisionError):
        await outlet.run()
