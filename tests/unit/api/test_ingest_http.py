"""POST /api/ingest/swaps by Django's test client: answers, costs, limits, and Kafka away."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from django.http import HttpResponse
from prometheus_client import REGISTRY

from aggregator.contracts.records import Header
from aggregator.producing.producer import Undelivered
from aggregator.producing.publisher import Publication
from aggregator.runtime.errors import Fatal
from api.auth.demo_issuer import ensure_keys, issue
from api.http.probes import node_reasons, readiness_of
from api.ingest.check import EventCheck
from api.ingest.service import Ingest
from api.ingest.writer import ANSWER_WITHIN_S, SwapWriter
from tests.unit.api.rest_site import NOW_S, Site, body, problem
from tests.unit.ingest.test_ingest_check import MAX_FUTURE_MS, event

NDJSON = "application/x-ndjson"


class Broker:
    """A publisher in memory that acknowledges everything unless a test says otherwise."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes]] = []
        self.headers: list[Header] = []
        self.fault = ""
        self.queued = 0
        self.away = ""
        self.answer: Callable[[int], Publication] = lambda count: Publication(count, {}, 0)
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self) -> None:
        if self.away:
            raise Fatal(self.away)

    async def publish(
        self,
        records: Sequence[tuple[bytes, bytes]],
        *,
        headers: Sequence[Header] = (),
        within_s: float | None = None,
    ) -> Publication:
        assert within_s == ANSWER_WITHIN_S
        await self.gate.wait()
        self.records += records
        self.headers = list(headers)
        return self.answer(len(records))

    async def close(self) -> None:
        self.queued = 0


class IngestSite:
    """A web node whose swaps go to a `Broker`."""

    def __init__(self, site: Site, check: EventCheck) -> None:
        self.site = site
        self.broker = Broker()
        self.ingest = Ingest(site.parts.config, lambda _: SwapWriter(check, self.broker))
        site.parts = replace(site.parts, ingest=self.ingest)

    async def send(
        self, content: bytes, media: str = NDJSON, scope: str = "swaps:write", **headers: str
    ) -> HttpResponse:
        chains = headers.pop("chains", None)
        token = issue(
            ensure_keys(self.site.directory),
            subject="feed-1",
            issuer="swaps-demo",
            audience="swaps",
            scope=scope,
            issued_at=NOW_S,
            ttl_ms=60_000,
            chains=None if chains is None else chains.split(),
        )
        response: HttpResponse = await self.site.client.post(
            "/api/ingest/swaps",
            data=content,
            content_type=media,
            headers={"Authorization": f"Bearer {token}"} | headers,
        )
        return response


@pytest.fixture(scope="module")
def check() -> EventCheck:
    return EventCheck(MAX_FUTURE_MS)


@pytest.fixture
def make_ingest(make_site: Callable[..., Site], check: EventCheck) -> Callable[..., IngestSite]:
    return lambda **settings: IngestSite(make_site(**settings), check)


@pytest.fixture
def node(make_ingest: Callable[..., IngestSite]) -> IngestSite:
    return make_ingest()


def at_now(**fields: Any) -> bytes:
    return event(timestamp=NOW_S * 1000, **fields)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.005)


def lines(*events: bytes) -> bytes:
    return b"".join(each + b"\n" for each in events)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_good_lines_are_written_and_bad_ones_are_listed(node: IngestSite) -> None:
    good = at_now(token="0xC02aaA39b223FE8D0A0e5C4f27eAD9083C756Cc2"), at_now(log_index=1)
    before = counted("swaps_ingest_lines_total", verdict="accepted")
    answer = await node.send(lines(good[0], at_now(amount="0"), good[1]))
    assert answer.status_code == 200
    assert body(answer) == {
        "accepted": 2,
        "rejected": 1,
        "errors": [
            {
                "line": 2,
                "reason": "rule",
                "field": "amount",
                "message": "0: must be above 0 and below 1e30",
            }
        ],
    }
    assert node.broker.records == [
        (b"ethereum:0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2", good[0]),
        (b"ethereum:WETH", good[1]),
    ]
    assert node.broker.headers == [("subject", b"feed-1")]
    assert counted("swaps_ingest_lines_total", verdict="accepted") == before + 2
    assert counted("swaps_ingest_requests_total", outcome="partial") >= 1


@pytest.mark.parametrize(
    ("content", "media", "headers"),
    [
        pytest.param(b"[%s]" % at_now(), "application/json", {}, id="array"),
        pytest.param(at_now(), "application/json", {}, id="object"),
        pytest.param(gzip.compress(at_now()), NDJSON, {"Content-Encoding": "gzip"}, id="gzip"),
        pytest.param(
            gzip.compress(lines(*[at_now(note=str(n)) for n in range(2_000)])),
            NDJSON,
            {"Content-Encoding": "gzip"},
            id="gzip in a thread",
        ),
    ],
)
async def test_ways_to_send(
    node: IngestSite, content: bytes, media: str, headers: dict[str, str]
) -> None:
    answer = await node.send(content, media, **headers)
    assert answer.status_code == 200, answer.content
    assert body(answer)["accepted"] == len(node.broker.records)


async def test_a_body_without_a_good_line_is_a_422(node: IngestSite) -> None:
    answer = problem(await node.send(lines(b"{}", b"x")), 422, "swaps_rejected")
    assert (answer["accepted"], answer["rejected"]) == (0, 2)
    assert [each["reason"] for each in answer["errors"]] == ["missing", "not_json"]
    assert "line 1: chain: " in answer["detail"]
    assert not node.broker.records


async def test_a_token_bound_to_chains(node: IngestSite) -> None:
    foreign, own = at_now(), at_now(chain="base")
    answer = await node.send(lines(foreign, own), chains="base")
    assert (body(answer)["accepted"], body(answer)["errors"][0]["field"]) == (1, "chain")
    refused = problem(await node.send(lines(foreign), chains="base"), 403, "chain_forbidden")
    assert refused["errors"][0]["reason"] == "chain"
    mixed = await node.send(lines(foreign, b"{}"), chains="base")
    problem(mixed, 422, "swaps_rejected")
    assert [value for _, value in node.broker.records] == [own]


async def test_what_is_not_the_lines_fault(node: IngestSite) -> None:
    problem(await node.send(at_now(), scope="stats:read"), 403, "scope_missing")
    problem(await node.send(b"{", "application/json"), 400, "body_invalid")
    unpacked = await node.send(b"{}", **{"Content-Encoding": "gzip"})
    problem(unpacked, 400, "body_invalid")
    assert (await node.send(b"{}", "text/plain")).headers["Accept"].startswith(NDJSON)
    other = await node.send(b"{}", **{"Content-Encoding": "br"})
    problem(other, 415, "encoding_unsupported")
    assert other.headers["Accept-Encoding"] == "gzip"
    big = await node.send(b"x" * 2_621_441)
    problem(big, 413, "request_too_large")
    bomb = await node.send(gzip.compress(bytes(9_000_000)), **{"Content-Encoding": "gzip"})
    problem(bomb, 413, "request_too_large")
    get = await node.site.get("/api/ingest/swaps")
    problem(get, 405, "method_not_allowed")
    assert get.headers["Allow"] == "POST"


async def test_every_hundred_lines_cost_one_more(make_ingest: Callable[..., IngestSite]) -> None:
    node = make_ingest(RATE_BURST="20")
    small = await node.send(lines(*[at_now()] * 99))
    assert small.headers["X-RateLimit-Remaining"] == "19"
    large = await node.send(lines(*[at_now()] * 1_200))
    assert large.headers["X-RateLimit-Remaining"] == "6"
    written = len(node.broker.records)
    refused = await node.send(lines(*[at_now()] * 800))
    problem(refused, 429, "rate_limited")
    assert refused.headers["Retry-After"] == "1"
    assert len(node.broker.records) == written, "nothing of a refused body is written"


async def test_a_broker_that_does_not_answer_is_a_503(node: IngestSite) -> None:
    timed_out = Undelivered("Local: Message timed out", refused=False)
    node.broker.answer = lambda _: Publication(1, {1: timed_out}, 1)
    answer = await node.send(lines(*[at_now()] * 3))
    said = problem(answer, 503, "ingest_unavailable")
    assert said["accepted"] == 1
    assert "Message timed out" in said["detail"]
    assert "send the whole body again" in said["detail"]
    assert answer.headers["Retry-After"] == "2"
    node.broker.answer = lambda _: Publication(0, {}, 3)
    assert "no answer" in body(await node.send(at_now()))["detail"]


async def test_bodies_that_wait_for_kafka_are_bounded(
    make_ingest: Callable[..., IngestSite],
) -> None:
    node = make_ingest(INGEST_BYTES="4096", BODY_LIMIT="4096")
    node.broker.gate.clear()
    waiting = asyncio.ensure_future(node.send(lines(at_now(note="x" * 2_500))))
    await _until(lambda: counted("swaps_ingest_waiting_bytes") > 0)
    refused = await node.send(lines(at_now(note="x" * 2_500)))
    said = problem(refused, 503, "ingest_busy")
    assert (said["accepted"], refused.headers["Retry-After"]) == (0, "1")
    node.broker.gate.set()
    assert (await waiting).status_code == 200
    assert counted("swaps_ingest_waiting_bytes") == 0
    node.broker.queued = 50_001
    problem(await node.send(at_now()), 503, "ingest_busy")


async def test_a_node_without_kafka_serves_readers_and_says_why(
    node: IngestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.ingest.service._LOADED_WITHIN_S", 0.05)
    parts = node.site.parts
    before = node_reasons(parts)
    assert parts.ingest.fault is None, "nobody has sent any swap"
    node.broker.away = "no Kafka broker answers at 127.0.0.1:1"
    answer = await node.send(at_now())
    assert "no Kafka broker" in problem(answer, 503, "ingest_unavailable")["detail"]
    assert any("no Kafka broker" in each for each in readiness_of(parts).degraded)
    assert node_reasons(parts) == before, "a balancer keeps the node"
    assert (await node.site.get("/api/overview")).status_code == 200
    await node.ingest.stop()


async def test_kafka_that_is_back_is_noticed(
    node: IngestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.ingest.service.FIRST_PAUSE_S", 0.01)
    node.broker.away = "away"
    sending = asyncio.ensure_future(node.send(at_now()))
    await _until(lambda: node.ingest.fault is not None)
    node.broker.away = ""
    assert (await sending).status_code == 200
    assert node.ingest.fault is None
    node.broker.fault = "all brokers are down"
    assert "all brokers are down" in str(node.ingest.fault)
    await node.ingest.stop()


async def test_off(make_ingest: Callable[..., IngestSite]) -> None:
    node = make_ingest(INGEST="off")
    problem(await node.send(at_now()), 404, "ingest_off")
    problem(await node.send(at_now(), scope="stats:read"), 403, "scope_missing")


async def test_on_loads_at_the_start(make_ingest: Callable[..., IngestSite]) -> None:
    lazy, eager = make_ingest(), make_ingest(INGEST="on")
    for node in (lazy, eager):
        node.broker.away = "away"
        node.ingest.start()
    await _until(lambda: eager.ingest.fault is not None)
    assert lazy.ingest.fault is None
    await eager.ingest.stop()


@pytest.mark.parametrize(
    ("chains", "refused"), [("base", False), (["base"], False), ([1], True), ({"a": 1}, True)]
)
async def test_the_claim_chains(node: IngestSite, chains: Any, refused: bool) -> None:
    import jwt

    claims = {
        "sub": "s", "iss": "swaps-demo", "aud": "swaps", "iat": NOW_S, "exp": NOW_S + 60,
        "scope": "swaps:write", "chains": chains,
    }  # fmt: skip
    token = jwt.encode(claims, ensure_keys(node.site.directory), algorithm="RS256")
    answer = await node.site.client.post(
        "/api/ingest/swaps",
        data=at_now(chain="base"),
        content_type=NDJSON,
        headers={"Authorization": f"Bearer {token}"},
    )
    if refused:
        assert problem(answer, 401, "token_claim")["claim"] == "chains"
    else:
        assert answer.status_code == 200


async def test_the_description_has_the_route(node: IngestSite) -> None:
    described = json.loads((await node.site.client.get("/api/openapi.json")).content)
    route = described["paths"]["/api/ingest/swaps"]["post"]
    assert set(route["requestBody"]["content"]) == {"application/json", NDJSON}
    assert set(route["responses"]) == {
        *("200", "400", "401", "403", "404", "413", "415", "422", "429", "503")
    }
    assert described["components"]["schemas"]["SwapEvent"]["required"][0] == "chain"
