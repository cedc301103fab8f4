"""Swaps over HTTP, from the body to the windows: a site with a broker of its own, which pauses."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from swapclient import ingest
from websockets.asyncio.client import connect

from aggregator.contracts.homes import Homes
from infra.embedded.kafka import Kafka
from infra.embedded.stack import Stack
from tests.integration.client_processes import node
from tests.support.docs_commands import ROOT, commands
from tests.support.fuzzing import fuzz
from tests.support.plain import PLAIN
from tests.support.processes import wait_until
from tests.support.service import ORIGIN, Service, swap

# The first test starts a broker, which is slow on a busy machine.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

NDJSON = "application/x-ndjson"
PARTITIONS = 4


class IngestService(Service):
    """A service with one aggregator and one web node, and a broker that a test may pause."""

    def __init__(self, directory: Path, kafka: Stack) -> None:
        generous = dict.fromkeys(
            ("RATE_LIMIT", "RATE_BURST", "RATE_LIMIT_IP", "RATE_BURST_IP"), "100000"
        )
        super().__init__(directory, kafka, INGEST="on", **generous)
        self.broker = kafka.kafka
        self.web_pid, self.web_log = 0, directory

    def send(
        self, content: bytes, media: str = NDJSON, scope: str = "swaps:write", **headers: str
    ) -> httpx.Response:
        chains = headers.pop("chains", None)
        token = self.issue("feed-1", scope, chains=None if chains is None else chains.split())
        return httpx.post(
            f"{ORIGIN}:{self.web_port}/api/ingest/swaps",
            content=content,
            headers={"Authorization": f"Bearer {token}", "Content-Type": media, **headers},
            timeout=30,
            verify=PLAIN,
        )

    def reader(self, scope: str) -> dict[str, str]:
        """Return the variables that the documents use."""
        url = f"{ORIGIN}:{self.web_port}"
        return {"WEB_URL": url, "TOKEN": self.issue("feed-1", scope)}

    def trades_of(self, chain: str) -> int:
        trades: int = self.overview(chain=chain)["totals"]["trades"]
        return trades

    def wait_counted(self, chain: str, count: int) -> None:
        wait_until(lambda: self.trades_of(chain) >= count, 30, f"{count} trades on {chain}")
        assert self.trades_of(chain) == count

    def records(self, chain: str) -> list[Message]:
        """Return the records of a chain that are in the swap topic now."""
        consumer = Consumer(
            {"bootstrap.servers": self.env["KAFKA_BOOTSTRAP"], "group.id": uuid4().hex}
        )
        try:
            ends = {}
            for partition in range(PARTITIONS):
                place = TopicPartition(self.topic, partition, 0)
                ends[partition] = consumer.get_watermark_offsets(place, timeout=10)[1]
            consumer.assign([TopicPartition(self.topic, each, 0) for each in ends])
            found: list[Message] = []
            while len(found) < sum(ends.values()):
                found += [each for each in consumer.consume(500, 0.3) if each.error() is None]
            return [each for each in found if (each.key() or b"").startswith(f"{chain}:".encode())]
        finally:
            consumer.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IngestService]:
    directory = tmp_path_factory.mktemp("ingest")
    with (
        Stack(directory / "kafka", only=(Kafka,)) as kafka,
        IngestService(directory, kafka) as made,
    ):
        made.aggregator()
        web = made.web()
        made.web_pid, made.web_log = web.pid, web.log
        made.wait_ready(60)
        yield made


def swaps(chain: str, count: int, first: int = 0, **fields: Any) -> list[bytes]:
    return [swap(first + number, chain=chain, **fields) for number in range(count)]


def body(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def test_swaps_reach_their_home_with_the_bytes_of_the_client(service: IngestService) -> None:
    sent = swaps("first", 50)
    answer = service.send(body([*sent, b'{"chain":"first"}', b"not JSON"]))
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["accepted"], said["rejected"]) == (50, 2)
    assert [(each["line"], each["reason"]) for each in said["errors"]] == [
        (51, "missing"),
        (52, "not_json"),
    ]
    assert int(answer.headers["X-RateLimit-Remaining"]) < 100_000
    records = service.records("first")
    assert sorted(each.value() or b"" for each in records) == sorted(sent)
    homes = Homes("murmur2", PARTITIONS)
    for record in records:
        event = json.loads(record.value() or b"")
        assert (record.key() or b"").decode() == f"first:{event['token']}"
        assert record.partition() == homes.of(f"first:{event['token']}")
        assert record.headers() == [("subject", b"feed-1")]
    service.wait_counted("first", 50)
    assert service.send(body(sent)).json()["accepted"] == 50
    service.send(body(swaps("after", 1)))
    service.wait_counted("after", 1)
    assert service.trades_of("first") == 50, "a repeat counts once"


@pytest.mark.parametrize("way", ["array", "object", "gzip"])
def test_ways_to_send(service: IngestService, way: str) -> None:
    sent = swaps(way, 1 if way == "object" else 300)
    content, media, headers = body(sent), NDJSON, {}
    if way == "gzip":
        content, headers = gzip.compress(content), {"Content-Encoding": "gzip"}
    else:
        content = b"[" + b",".join(sent) + b"]" if way == "array" else sent[0]
        media = "application/json"
    answer = service.send(content, media, **headers)
    assert answer.json() == {"accepted": len(sent), "rejected": 0, "errors": []}
    service.wait_counted(way, len(sent))


def test_what_is_refused(service: IngestService) -> None:
    bomb = gzip.compress(bytes(200_000_000), 1)
    rss_mb = _rss_mb(service.web_pid)
    sent = [
        (service.send(bomb, **{"Content-Encoding": "gzip"}), 413, "request_too_large"),
        (service.send(b"0" * 2_700_000), 413, "request_too_large"),
        (service.send(b"{}\n{}"), 422, "swaps_rejected"),
        (service.send(b"[", "application/json"), 400, "body_invalid"),
        (service.send(b"{}", "text/csv"), 415, "media_type_unsupported"),
        (service.send(b"{}", scope="stats:read"), 403, "scope_missing"),
        (service.send(body(swaps("refused", 2)), chains="base"), 403, "chain_forbidden"),
    ]
    for answer, status, code in sent:
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert _rss_mb(service.web_pid) < rss_mb + 40
    mixed = service.send(body(swaps("refused", 1) + swaps("bound", 1)), chains="bound")
    assert mixed.json()["accepted"] == 1
    assert mixed.json()["errors"][0]["field"] == "chain"
    service.wait_counted("bound", 1)
    assert service.trades_of("refused") == 0


def test_other_clients_are_served_while_large_bodies_are_written(service: IngestService) -> None:
    """Pings of a socket are answered again and again while a body of 5,000 new tokens is read."""
    content = body([swap(n, chain="large", token=f"T{n}") for n in range(5_000)])
    answers: list[httpx.Response] = []
    sending = threading.Thread(target=lambda: answers.append(service.send(content)))

    async def pings() -> int:
        token = service.issue("reader", "stats:read ws:connect")
        url = f"ws://127.0.0.1:{service.web_port}/ws"
        async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
            sending.start()
            count = 0
            while sending.is_alive():
                await (await socket.ping())
                count += 1
            return count

    count = asyncio.run(pings())
    assert answers[0].json()["accepted"] == 5_000, answers[0].text
    assert count > 20, f"{count} pings were answered meanwhile"
    service.wait_counted("large", 5_000)


def test_a_broker_that_pauses_costs_a_repeat_and_no_swap(service: IngestService) -> None:
    sent = body(swaps("paused", 100))
    os.kill(service.broker.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        refused = service.send(sent)
        took_s = time.monotonic() - begun
        node = httpx.get(f"{ORIGIN}:{service.web_port}/readyz/node", verify=PLAIN, timeout=10)
        reader = service.get("/api/overview")
    finally:
        os.kill(service.broker.pid, signal.SIGCONT)
    assert refused.status_code == 503, refused.text
    assert refused.json()["code"] == "ingest_unavailable"
    assert refused.json()["accepted"] == 0
    assert "send the whole body again" in refused.json()["detail"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert 4.5 < took_s < 20
    assert (node.status_code, reader.status_code) == (200, 200), "readers are served meanwhile"
    wait_until(lambda: service.send(sent).status_code == 200, 60, "the broker is back")
    service.send(body(swaps("resumed", 1)))
    service.wait_counted("resumed", 1)
    service.wait_counted("paused", 100)


def test_curl_as_the_document_writes_it(service: IngestService, tmp_path: Path) -> None:
    (command,) = [each.text for each in commands() if "/api/ingest/swaps" in each.text]
    (tmp_path / "swaps.ndjson").write_bytes(body(swaps("curl", 3)))
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=tmp_path,
        env=os.environ | service.reader("swaps:write"),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["accepted"] == 3
    service.wait_counted("curl", 3)


@pytest.mark.parametrize("language", ["python", "js"])
def test_the_examples_of_the_clients(service: IngestService, language: str) -> None:
    before = service.trades_of("example")
    example = [sys.executable, "clients/python/example_ingest.py"]
    done = subprocess.run(
        example if language == "python" else [*node(), "clients/js/example_ingest.mjs"],
        cwd=ROOT,
        env=os.environ | service.reader("swaps:write") | {"PYTHONPATH": "clients/python"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split()[:2] == ["1", "0"], done.stdout + done.stderr
    service.wait_counted("example", before + 1)


async def test_the_python_client_sends_again_until_kafka_is_back(service: IngestService) -> None:
    """1,500 swaps in two gzip bodies; the broker pauses during the first."""
    sent = swaps("client", 1_500)
    reader = service.reader("swaps:write")
    os.kill(service.broker.pid, signal.SIGSTOP)
    try:
        sending = asyncio.ensure_future(
            ingest(reader["WEB_URL"], reader["TOKEN"], [*sent[:20], b"{}", *sent[20:]])
        )
        done, _ = await asyncio.wait([sending], timeout=6)
        assert not done
    finally:
        os.kill(service.broker.pid, signal.SIGCONT)
    report = await asyncio.wait_for(sending, 60)
    assert (report.accepted, report.rejected) == (1_500, 1)
    assert (report.errors[0].index, report.errors[0].reason) == (20, "missing")
    await asyncio.to_thread(service.wait_counted, "client", 1_500)


def test_what_was_counted_is_shown(service: IngestService) -> None:
    log = [json.loads(each) for each in service.web_log.read_text().splitlines() if "{" in each[:1]]
    access = [each for each in log if each.get("route") == "/api/ingest/swaps"]
    assert {each["subject"] for each in access} == {"feed-1"}
    assert {200, 403, 413, 422, 503} <= {each["status"] for each in access}
    page = httpx.get(f"{ORIGIN}:{service.web_port}/metrics", verify=PLAIN).text
    counted = dict(re.findall(r'^swaps_ingest_requests_total\{outcome="(\w+)"\} (\S+)', page, re.M))
    assert {"accepted", "partial", "rejected", "invalid", "unavailable"} <= counted.keys()
    assert float(counted["unavailable"]) >= 1
    lines = dict(re.findall(r'^swaps_ingest_lines_total\{verdict="(\w+)"\} (\S+)', page, re.M))
    assert {"accepted", "missing", "not_json", "chain"} <= lines.keys()


def test_schemathesis(service: IngestService, tmp_path: Path) -> None:
    """Nothing that fits the description, or just misses it, is answered with another status."""
    described = tmp_path / "openapi.json"
    described.write_text(service.get("/api/openapi.json").text)
    done = fuzz(
        described,
        f"{ORIGIN}:{service.web_port}",
        service.issue("fuzz", "swaps:write"),
        10,
        *("--include-path", "/api/ingest/swaps", "--max-examples", "30"),
    )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr
    dead_letters = httpx.get(f"{ORIGIN}:{service.web_port}/readyz", verify=PLAIN).json()
    assert sum(each["tallies"]["dead_letters"] for each in dead_letters["partitions"]) == 0
    assert service.get("/healthz").status_code == 200


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
