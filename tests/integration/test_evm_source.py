"""An EVM source against a scripted node on loopback: what geth sent at a reorganisation, nodes that
lag, lie, refuse and fail, and nodes that are not of one chain.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aggregator.runtime.errors import Fatal
from sources.evm.nodes import RpcNodes
from sources.evm.ports import LogFilter
from sources.evm.rpc import RpcNode, transport
from sources.evm.source import EvmSource, FollowSettings
from sources.metrics import SourceMetrics
from tests.fakes.sources import MemoryBroker, MemoryJournal, MemorySink
from tests.support.evm_node import Cut, Fault, ScriptedChain, ScriptedNode, Status
from tests.unit.sources.evm.source_world import PlainReader, counted

FRAMES = Path(__file__).parents[1] / "data" / "sources" / "geth_reorg_frames.ndjson.gz"
V2_SWAP = "0xd78ad95fa46c994b6551d0da85fc275fe613ce37657fb8d5e3d130840159d822"
TOPIC = "0x" + "d7" * 32
WITHIN_S = 20.0

Frame = dict[str, Any]


def frames() -> list[Frame]:
    with gzip.open(FRAMES, "rt") as lines:
        return [json.loads(line) for line in lines]


def recorded_chain() -> ScriptedChain:
    """All blocks that geth announced, with the logs that it announced for each."""
    chain = ScriptedChain()
    logs: dict[str, dict[str, Any]] = {}
    for each in frames():
        if each["kind"] == "log" and not each["frame"]["removed"]:
            of = logs.setdefault(each["frame"]["blockHash"], {})
            of[each["frame"]["logIndex"]] = each["frame"]
    for each in frames():
        if each["kind"] == "head":
            header = each["frame"]
            found = logs.get(header["hash"], {})
            chain.put(header, [found[at] for at in sorted(found)])
    return chain


def line(chain: ScriptedChain, blocks: int, logs: Callable[[int], int] = lambda n: n % 3) -> str:
    """Make a chain of blocks without forks; return the hash of the newest."""
    parent = None
    for number in range(blocks):
        parent = chain.mine(parent, f"a{number}", logs(number))
    assert parent is not None
    return parent


def expected(chain: ScriptedChain, first: int = 0) -> dict[tuple[str, int], str]:
    return {
        (log["transactionHash"], int(log["logIndex"], 16)): block_hash
        for number, block_hash in chain.canonical.items()
        for log in chain.logs[block_hash]
        if number >= first
    }


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():  # noqa: ASYNC110 - the condition is read from what the source did
            await asyncio.sleep(0.005)


class Running:
    """A source that runs as a task."""

    def __init__(self, urls: list[str], broker: MemoryBroker, settings: FollowSettings) -> None:
        self.broker = broker
        self.metrics = SourceMetrics("test", "evm", "anvil")
        self.nodes = RpcNodes(
            [
                RpcNode(transport(url, number, timeout_s=5), self.metrics.call)
                for number, url in enumerate(urls, start=1)
            ],
            poll_s=0.01,
            compared_every_s=0.05,
        )
        self.journal = MemoryJournal("test", broker)
        self.source = EvmSource(
            settings,
            nodes=self.nodes,
            reader=PlainReader(),
            journal=self.journal,
            sink=MemorySink(broker),
            metrics=self.metrics,
        )
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        await self.source.run(await self.journal.own())

    def counts(self, wanted: dict[tuple[str, int], str]) -> Callable[[], bool]:
        def holds() -> bool:
            if self.task.done():
                self.task.result()
            return counted(self.broker.records) == wanted

        return holds


@asynccontextmanager
async def running(
    *urls: str,
    broker: MemoryBroker | None = None,
    topic: str = TOPIC,
    **settings: Any,
) -> AsyncIterator[Running]:
    begins = {"from_block": 0, "keep": 64, **settings}
    run = Running(
        list(urls),
        broker or MemoryBroker(),
        FollowSettings("test", LogFilter((topic,)), **begins),
    )
    try:
        yield run
    finally:
        run.task.cancel()
        await asyncio.gather(run.task, return_exceptions=True)
        await run.journal.close()
        await run.nodes.close()


@asynccontextmanager
async def nodes(*made: ScriptedNode) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for each in made:
            await stack.enter_async_context(each)
        yield


def without_removed(recorded: list[Frame]) -> list[Frame]:
    return [each for each in recorded if not each["frame"].get("removed")]


def removed_twice(recorded: list[Frame]) -> list[Frame]:
    return [each for one in recorded for each in [one] * (2 if one["frame"].get("removed") else 1)]


def removed_late(recorded: list[Frame]) -> list[Frame]:
    late = [each for each in recorded if each["frame"].get("removed")]
    return [*without_removed(recorded)[:-1], *late, recorded[-2]]


def every_second_head(recorded: list[Frame]) -> list[Frame]:
    heads = [each for each in recorded if each["kind"] == "head"]
    return [each for each in recorded if each["kind"] == "log" or heads.index(each) % 2 == 0]


@pytest.mark.parametrize(
    "announced",
    [lambda same: same, without_removed, removed_twice, removed_late, every_second_head],
    ids=["as recorded", "removed never", "removed twice", "removed late", "heads skipped"],
)
@pytest.mark.parametrize("paced", [True, False], ids=["one after the other", "all together"])
async def test_geth_reorganises_and_goes_back(
    announced: Callable[[list[Frame]], list[Frame]], paced: bool
) -> None:
    chain = recorded_chain()
    heads = [each["frame"] for each in frames() if each["kind"] == "head"]
    chain.set_head(heads[0]["hash"])
    node = ScriptedNode(chain)
    async with (
        nodes(node),
        running(node.ws_url, topic=V2_SWAP, from_block=2) as run,
    ):
        await until(run.counts(expected(chain)))
        for each in announced(frames()):
            if each["kind"] == "head":
                chain.set_head(each["frame"]["hash"])
            await node.announce(each["kind"], each["frame"])
            # A head below what is sent, on the same chain, proves nothing: it may be a lag.
            lags = expected(chain).items() < counted(run.broker.records).items()
            if paced and each["kind"] == "head" and not lags:
                await until(run.counts(expected(chain)))
        chain.set_head(heads[-1]["hash"])
        await node.announce("head", heads[-1])
        await until(run.counts(expected(chain)))
    assert len(expected(chain)) == 9
    if paced and announced is not every_second_head:
        assert run.metrics.status().retractions == 4 + 5


@pytest.mark.parametrize("over", ["http_url", "ws_url"])
async def test_the_way_to_the_head_by_ranges_that_are_refused(over: str) -> None:
    chain = ScriptedChain()
    line(chain, 400)
    node = ScriptedNode(chain)

    def refuse(method: str, params: list[Any]) -> None:
        if method == "eth_getLogs" and "fromBlock" in params[0]:
            first, last = (int(params[0][key], 16) for key in ("fromBlock", "toBlock"))
            assert last <= 335, "a range beyond the finalised block"
            if last - first >= 50:
                raise Fault(-32602, f"range {last - first + 1} exceeds limit of 50")

    node.before = refuse
    async with nodes(node), running(getattr(node, over)) as run:
        await until(run.counts(expected(chain)))
    assert node.counts()["eth_getLogs"] < 120


@pytest.mark.parametrize("over", ["http_url", "ws_url"])
async def test_cuts_and_limits_lose_nothing(over: str) -> None:
    chain = ScriptedChain()
    line(chain, 60)
    node = ScriptedNode(chain)
    faults: list[Exception] = [Status(429, "0"), Cut(), Status(429, "0.01"), Cut()]

    def fail(method: str, params: list[Any]) -> None:
        if len(node.calls) % 7 == 0 and faults:
            raise faults.pop()

    node.before = fail
    async with nodes(node), running(getattr(node, over)) as run:
        await until(run.counts(expected(chain)))
        assert not faults
        chain.mine(chain.canonical[59], "more", 3)
        await node.cut()
        await until(run.counts(expected(chain)))


async def test_a_vendor_that_cuts_large_answers_is_read_in_smaller_ones() -> None:
    chain = ScriptedChain()
    line(chain, 200)
    node = ScriptedNode(chain)

    def cut(method: str, params: list[Any]) -> None:
        if method == "eth_getLogs" and "fromBlock" in params[0]:
            first, last = (int(params[0][key], 16) for key in ("fromBlock", "toBlock"))
            if last - first >= 40:
                raise Cut

    node.before = cut
    async with nodes(node), running(node.http_url) as run:
        await until(run.counts(expected(chain)))


async def test_a_node_down_for_a_while_is_waited_for() -> None:
    chain = ScriptedChain()
    head = line(chain, 20)
    node = ScriptedNode(chain)
    down = False

    def fail(method: str, params: list[Any]) -> None:
        if down:
            raise Status(503)

    node.before = fail
    async with nodes(node), running(node.http_url) as run:
        await until(run.counts(expected(chain)))
        down = True
        for number in range(20, 40):
            head = chain.mine(head, f"a{number}", 2)
        await until(lambda: run.metrics.status().state == "waiting")
        down = False
        await until(run.counts(expected(chain)))


async def test_logs_that_come_late_are_asked_for_again() -> None:
    chain = ScriptedChain()
    head = line(chain, 5)
    node = ScriptedNode(chain)
    async with nodes(node), running(node.ws_url) as run:
        await until(run.counts(expected(chain)))
        node.no_logs = 1
        chain.mine(head, "late", 2)
        await node.announce("head", {})
        await until(run.counts(expected(chain)))


async def test_another_node_is_asked_for_logs_that_one_does_not_have() -> None:
    chain = ScriptedChain()
    line(chain, 5)
    liar, honest = ScriptedNode(chain), ScriptedNode(chain)
    liar.no_logs = 1_000
    async with nodes(liar, honest), running(liar.http_url, honest.http_url) as run:
        await until(run.counts(expected(chain)))


async def test_a_node_that_lags_gives_way_and_comes_back() -> None:
    chain = ScriptedChain()
    head = line(chain, 30)
    first, second = ScriptedNode(chain), ScriptedNode(chain)
    first.lag = 20
    async with nodes(first, second), running(first.http_url, second.ws_url) as run:
        await until(run.counts(expected(chain)))
        first.lag = 0
        asked = first.counts()["eth_getLogs"]
        await asyncio.sleep(0.06)  # the time between two comparisons of the nodes
        await second.announce("head", {})
        head = chain.mine(head, "first", 3)
        await until(lambda: first.counts()["eth_getLogs"] > asked)
        second.lag = 20
        chain.mine(head, "more", 3)
        await until(run.counts(expected(chain)))
    assert run.metrics.status().retractions == 0


async def test_the_second_node_answers_while_the_first_is_down() -> None:
    chain = ScriptedChain()
    head = line(chain, 10)
    first, second = ScriptedNode(chain), ScriptedNode(chain)

    def fail(method: str, params: list[Any]) -> None:
        raise Status(500)

    async with nodes(first, second), running(first.http_url, second.http_url) as run:
        await until(run.counts(expected(chain)))
        first.before = fail
        chain.mine(head, "more", 3)
        await until(run.counts(expected(chain)))


async def test_a_reorganisation_during_the_read_of_a_block() -> None:
    chain = ScriptedChain(orphans=False)
    head = line(chain, 8)
    node = ScriptedNode(chain)
    async with nodes(node), running(node.ws_url) as run:
        await until(run.counts(expected(chain)))
        orphan = chain.mine(head, "orphan", 3)

        def reorganise(method: str, params: list[Any]) -> None:
            if method == "eth_getLogs" and params[0].get("blockHash") == orphan:
                chain.mine(chain.mine(head, "b8", 1), "b9", 2)
                node.before = lambda method, params: None

        node.before = reorganise
        await node.announce("head", {})
        await until(lambda: chain.head == 9)
        await until(run.counts(expected(chain)))


async def test_kafka_away_stops_the_reading() -> None:
    chain = ScriptedChain()
    head = line(chain, 5)
    node = ScriptedNode(chain)
    async with nodes(node), running(node.ws_url) as run:
        await until(run.counts(expected(chain)))
        run.broker.up.clear()
        for number in range(5, 60):
            head = chain.mine(head, f"a{number}", 1)
        await node.announce("head", {})
        await until(lambda: len(node.calls) > 20)
        logs = node.counts()["eth_getLogs"]
        assert logs < 5 + 20, "the source reads on although nothing can be sent"
        run.broker.up.set()
        await until(run.counts(expected(chain)))


async def stopped(*urls: str, **settings: Any) -> str:
    """Return why a source stops."""
    async with running(*urls, **settings) as run:
        with pytest.raises(Fatal) as raised:
            async with asyncio.timeout(WITHIN_S):
                await run.task
        return str(raised.value)


async def test_an_endpoint_of_another_chain_stops_the_source() -> None:
    chain = ScriptedChain()
    line(chain, 5)
    node = ScriptedNode(chain)
    broker = MemoryBroker()
    async with nodes(node):
        async with running(node.http_url, broker=broker) as run:
            await until(run.counts(expected(chain)))
        node.chain_id = 1
        why = await stopped(node.http_url, broker=broker)
    assert "rpc 1 (127.0.0.1) is of chain 1 " in why
    assert "the source is of chain 31337" in why
    assert "secret" not in why


async def test_another_chain_at_the_same_address_stops_the_source() -> None:
    chain = ScriptedChain()
    line(chain, 5)
    node = ScriptedNode(chain)
    async with nodes(node), running(node.ws_url) as run:
        await until(run.counts(expected(chain)))
        node.chain_id = 1
        await node.cut()
        with pytest.raises(Fatal, match="is of chain 1 "):
            async with asyncio.timeout(WITHIN_S):
                await run.task


async def test_a_disagreement_on_a_finalised_block_stops_the_source() -> None:
    one, other = ScriptedChain(), ScriptedChain()
    line(one, 90)
    genesis = other.mine(None, "a0")
    parent = genesis
    for number in range(1, 90):
        parent = other.mine(parent, f"b{number}")
    first, second = ScriptedNode(one), ScriptedNode(other)
    async with nodes(first, second):
        why = await stopped(first.http_url, second.http_url)
    assert "disagree on the finalised block 25" in why
    assert "secret" not in why


async def test_errors_do_not_show_the_key() -> None:
    said: list[str] = []
    for url in (
        "ws://127.0.0.1:1/v3/secret-key",
        "http://user:secret-key@127.0.0.1:1/?k=secret-key",
    ):
        carrier = transport(url, 1)
        with pytest.raises(Exception, match="rpc 1") as raised:
            await carrier.request("eth_chainId", [])
        said.append(f"{raised.value} {raised.value.__cause__}")
        await carrier.close()
    assert all("secret" not in each for each in said)
