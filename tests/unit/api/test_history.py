"""The history routes without an archive: parameters, scope and the pool of threads."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from django.core import signing
from django.http import HttpResponse
from django.test import AsyncClient

from aggregator.clickhouse.connection import Refused, Unavailable
from aggregator.clickhouse.reader import HistoryReader
from aggregator.contracts.units import DAY_MS
from aggregator.runtime.config import load
from api import services as services_module
from api.archive.questions import History
from api.auth.demo_issuer import ensure_keys, issue
from api.http import history_examples as examples
from api.http.history import MAX_CANDLES, MAX_DAYS, CandlesAnswer, DaysAnswer, TradesAnswer
from api.problem import Problem
from api.services import build

NOW_S = 1_795_400_000
TOKEN = quote("cosmos:ibc/27394F", safe="")
READER = HistoryReader("clickhouse://default:@127.0.0.1:1/default")


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that sends a GET to a web node without an archive."""
    key = ensure_keys(tmp_path)
    config = load({"JWT_PUBLIC_KEY_FILE": str(tmp_path / "public.pem")})
    parts = build(config, lambda: 1_000, lambda: NOW_S)
    services_module.services.cache_clear()
    monkeypatch.setattr(services_module, "build", lambda _config: parts)
    client = AsyncClient(raise_request_exception=False)

    async def get(path: str, scope: str = "history:read") -> HttpResponse:
        token = issue(
            key,
            subject="someone",
            issuer="swaps-demo",
            audience="swaps",
            scope=scope,
            issued_at=NOW_S,
            ttl_ms=60_000,
        )
        response: HttpResponse = await client.get(
            path, headers={"Authorization": f"Bearer {token}"}
        )
        return response

    yield get
    services_module.services.cache_clear()


@pytest.mark.parametrize("route", ["trades", "candles", "daily"])
async def test_without_an_archive(ask: Any, route: str) -> None:
    answer = await ask(f"/api/tokens/{TOKEN}/{route}")
    assert answer.status_code == 503
    assert json.loads(answer.content)["code"] == "history_unavailable"
    assert "no archive" in json.loads(answer.content)["detail"]
    assert int(answer["Retry-After"]) > 0


@pytest.mark.parametrize("route", ["trades", "candles", "daily"])
async def test_another_scope_does_not_open_it(ask: Any, route: str) -> None:
    answer = await ask(f"/api/tokens/{TOKEN}/{route}", scope="stats:read ops:read")
    assert answer.status_code == 403
    assert json.loads(answer.content)["scope"] == "history:read"


@pytest.mark.parametrize("token_id", ["nocolon", "UPPER:x", "ethereum:", ":x", "a:" + "y" * 300])
async def test_a_malformed_token_id_is_refused(ask: Any, token_id: str) -> None:
    answer = await ask(f"/api/tokens/{quote(token_id, safe='')}/trades")
    assert answer.status_code == 422
    assert json.loads(answer.content)["code"] == "token_invalid"


@pytest.mark.parametrize(
    ("route", "query", "parameter", "said"),
    [
        ("trades", "limit=0", "limit", "1"),
        ("trades", "limit=1001", "limit", "1000"),
        ("trades", "limit=ten", "limit", "integer"),
        ("trades", "side=both", "side", "'buy' or 'sell'"),
        ("trades", "from=-1", "from", "0"),
        ("trades", "to=99999999999999", "to", "less than"),
        ("trades", "from=5&to=5", "from", "before `to`"),
        ("trades", "cursor=xyz", "cursor", "next_cursor"),
        ("trades", f"cursor={'x' * 1001}", "cursor", "1000"),
        ("candles", "interval=2m", "interval", "'1m'"),
        ("candles", "from=1.5", "from", "ms since the epoch"),
        ("candles", "limit=0", "limit", "1"),
        ("candles", f"limit={MAX_CANDLES + 1}", "limit", str(MAX_CANDLES)),
        ("candles", "from=2026-11-30T00:00:00", "from", "ISO 8601 with a zone"),
        ("candles", "from=yesterday", "from", "ISO 8601 with a zone"),
        ("trades", "from=1969-12-31T23:59:59Z", "from", "0"),
        ("trades", "to=9999-12-31T23:59:59Z", "to", "less than"),
        ("daily", "from=2026-11-30T00:00:00Z&to=2026-11-30T01:00:00%2B01:00", "from", "before"),
        ("candles", f"from=0&to={DAY_MS * 2}", "from", f"at most {MAX_CANDLES:,}"),
        ("candles", "to=0", "from", "before `to`"),
        ("daily", f"from=0&to={DAY_MS * (MAX_DAYS + 1)}", "from", f"at most {MAX_DAYS:,}"),
        ("daily", f"from={(NOW_S + 1) * 1000}", "from", "before `to`"),
    ],
)
async def test_a_bad_parameter_is_named(
    ask: Any, route: str, query: str, parameter: str, said: str
) -> None:
    answer = await ask(f"/api/tokens/{TOKEN}/{route}?{query}")
    body = json.loads(answer.content)
    assert (answer.status_code, body["code"]) == (422, "parameter_invalid"), body
    assert body["parameter"] == parameter
    assert said in body["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "from=2026-11-20T00:00:00Z&to=2026-11-21T00:00:00.5Z",
        "from=2026-11-20T00:00:00%2B02:00",
        "from=2026-11-20T00:00:00+02:00",
        f"from={NOW_S * 1_000 - 60_000}",
        f"limit={MAX_CANDLES}",
    ],
)
async def test_what_is_accepted(ask: Any, query: str) -> None:
    answer = await ask(f"/api/tokens/{TOKEN}/candles?interval=1h&{query}")
    assert answer.status_code == 503, "there is no archive to ask"


async def test_a_cursor_belongs_to_its_query(ask: Any) -> None:
    position = (1, "0x1", 0, "00" * 16)
    good = signing.dumps(position, salt="trades cosmos:ibc/27394F None")
    path = f"/api/tokens/{TOKEN}/trades?cursor={quote(good)}"
    assert (await ask(path)).status_code == 503  # accepted; there is no archive to ask
    for other in (f"{path}&side=buy", path.replace("27394F", "27394E"), path[:-1] + "x"):
        answer = await ask(other)
        assert answer.status_code == 422, other
        assert json.loads(answer.content)["parameter"] == "cursor"


async def test_the_description_has_examples_of_the_right_shape(ask: Any) -> None:
    described = json.loads((await ask("/api/openapi.json")).content)
    for route, shape, example in (
        ("trades", TradesAnswer, examples.TRADES),
        ("candles", CandlesAnswer, examples.CANDLES),
        ("daily", DaysAnswer, examples.DAYS),
    ):
        operation = described["paths"][f"/api/tokens/{{token_id}}/{route}"]["get"]
        content = operation["responses"]["200"]["content"]["application/json"]
        assert content["example"] == example
        assert msgspec.to_builtins(msgspec.convert(example, shape)) == example
        name = content["schema"]["$ref"].rpartition("/")[2]
        assert set(described["components"]["schemas"][name]["properties"]) == set(example)
    names = {each["name"] for each in operation["parameters"]}
    assert {"from", "to"} <= names


async def test_queries_do_not_block_the_event_loop() -> None:
    history = History(READER, threads=1, queue=1)
    gate = threading.Event()
    first = asyncio.ensure_future(history.ask(lambda _: gate.wait(5)))
    second = asyncio.ensure_future(history.ask(lambda _: "second"))
    await asyncio.sleep(0)  # both run; the event loop continues while the thread waits
    with pytest.raises(Problem) as busy:
        await history.ask(lambda _: "third")
    assert busy.value.code == "history_busy"
    gate.set()
    assert await first is True
    assert await second == "second"
    assert await history.ask(lambda _: "fourth") == "fourth"
    history.close()


async def test_a_client_that_leaves_keeps_its_place_until_the_thread_is_free() -> None:
    history = History(READER, threads=1, queue=0)
    gate, begun = threading.Event(), threading.Event()

    def question(_: HistoryReader) -> bool:
        begun.set()
        return gate.wait(5)

    gone = asyncio.ensure_future(history.ask(question))
    await asyncio.to_thread(begun.wait, 5)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    with pytest.raises(Problem, match="history_busy"):
        await history.ask(lambda _: None)
    gate.set()
    for _ in range(1_000):
        try:
            assert await history.ask(lambda _: "again") == "again"
            break
        except Problem:
            await asyncio.sleep(0.001)
    else:
        pytest.fail("the place was never free again")
    history.close()


async def test_while_clickhouse_is_down_most_queries_fail_immediately() -> None:
    now = [0.0]
    history = History(READER, clock=lambda: now[0])
    asked = 0

    def down(_: HistoryReader) -> None:
        nonlocal asked
        asked += 1
        raise Unavailable("nobody there")

    for _ in range(5):
        with pytest.raises(Problem, match="history_unavailable"):
            await history.ask(down)
    assert asked == 1
    assert history.fault == "nobody there"
    now[0] = 1.5
    assert await history.ask(lambda _: 7) == 7
    assert history.fault is None
    history.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("slow", 159), "history_too_slow"),
        (Refused("many rows", 158), "history_too_slow"),
        (Refused("no table", 60), "history_unavailable"),
        (Unavailable("S3", 499), "history_unavailable"),
    ],
)
async def test_an_error_of_clickhouse_becomes_a_problem(
    error: Unavailable | Refused, code: str
) -> None:
    history = History(READER)

    def fail(_: HistoryReader) -> None:
        raise error

    with pytest.raises(Problem) as refused:
        await history.ask(fail)
    assert (refused.value.status, refused.value.code) == (503, code)
    assert "Retry-After" in refused.value.headers
    assert await history.ask(lambda _: 1) == 1  # a server that answers is asked again immediately
    history.close()
