"""History over HTTP, through Daphne, with a ClickHouse that the test kills."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from aggregator.contracts.units import DAY_MS, MINUTE_MS
from infra.embedded.clickhouse import ClickHouse as ClickHouseEngine
from infra.embedded.stack import Stack
from tests.support.archive_rows import Row, archive, insert
from tests.support.processes import wait_until
from tests.support.web_nodes import Node, Nodes

pytestmark = pytest.mark.engines

NAME = "ibc/27394F092D2ECCD5:6123C74F"
TOKEN = f"cosmos:{NAME}"
BASE = f"/api/tokens/{quote(TOKEN, safe='')}"


class Site:
    """A web node with an archive that a test may kill."""

    def __init__(self, engine: ClickHouseEngine, node: Node, token: str, first: int) -> None:
        self.engine = engine
        self.node = node
        self.token = token
        self.first = first


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory: Path = tmp_path_factory.mktemp("history")
    with (
        Stack(directory / "own", only=(ClickHouseEngine,)) as own,
        archive(own.clickhouse.url) as (_, config),
        Nodes(directory, CLICKHOUSE_URL=config.clickhouse_url) as nodes,
    ):
        first = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS - DAY_MS
        rows = [
            Row(number=n, timestamp=first + n * MINUTE_MS, chain="cosmos", token=NAME)
            for n in range(250)
        ]
        insert(config, rows)
        node = nodes.web()
        yield Site(own.clickhouse, node, nodes.token(scope="history:read ops:read"), first)


def test_trades_page_by_page(site: Site) -> None:
    found, cursor, pages = [], "", 0
    while True:
        more = f"&cursor={quote(cursor)}" if cursor else ""
        answer = site.node.get(site.token, f"{BASE}/trades?limit=100{more}")
        assert answer.status_code == 200, answer.text
        found += [int(trade["tx_hash"], 16) for trade in answer.json()["trades"]]
        cursor, pages = answer.json()["next_cursor"], pages + 1
        if cursor is None:
            break
    assert found == list(range(249, -1, -1))
    assert pages == 3


def test_a_token_id_may_be_written_with_its_slash(site: Site) -> None:
    answer = site.node.get(site.token, f"/api/tokens/{TOKEN}/trades?limit=1")
    assert answer.status_code == 200, answer.text
    assert answer.json()["trades"][0]["event_id"].startswith("cosmos:0x")


def test_candles_and_days(site: Site) -> None:
    span = f"from={site.first}&to={site.first + DAY_MS}"
    hours = site.node.get(site.token, f"{BASE}/candles?interval=1h&{span}").json()["candles"]
    assert [candle["trades"] for candle in hours] == [60, 60, 60, 60, 10]
    assert hours[0] == {
        "open_time": site.first,
        "close_time": site.first + 3_600_000,
        "open_usd": "5.25",
        "high_usd": "5.25",
        "low_usd": "5.25",
        "close_usd": "5.25",
        "volume_usd": "630.000000",
        "buy_volume_usd": "630.000000",
        "sell_volume_usd": "0.000000",
        "volume_token": "120",
        "trades": 60,
        "vwap_usd": "5.25",
    }
    newest = site.node.get(site.token, f"{BASE}/candles?interval=1h&{span}&limit=2").json()
    assert newest["candles"] == hours[-2:]
    begin = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(site.first / 1_000))
    path = f"{BASE}/candles?interval=1h&from={begin}&to={site.first + 2 * 3_600_000}"
    assert site.node.get(site.token, path).json()["candles"] == hours[:2]
    (day,) = site.node.get(site.token, f"{BASE}/daily").json()["days"]
    assert (day["trades"], day["volume_usd"]) == (250, "2625.000000")
    assert day["open_time"] == site.first


def test_unknown_and_empty_are_not_the_same(site: Site) -> None:
    unknown = site.node.get(site.token, "/api/tokens/cosmos:ibc%2F0000/trades")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "token_not_found")
    empty = site.node.get(site.token, f"{BASE}/candles?from=0&to=60000")
    assert (empty.status_code, empty.json()) == (200, {"candles": []})


def test_an_outage_of_the_archive_affects_history_only(site: Site) -> None:
    def code() -> str:
        answer = site.node.get(site.token, f"{BASE}/trades")
        return "ok" if answer.status_code == 200 else str(answer.json()["code"])

    assert code() == "ok"
    site.engine.kill()
    began = time.monotonic()
    assert code() == "history_unavailable"
    assert time.monotonic() - began < 4
    assert site.node.get(site.token, "/api/status").status_code == 200
    site.node.wait_degraded("archive")
    site.engine.start()
    wait_until(lambda: code() == "ok", 10, "history after the restart")
    wait_until(
        lambda: not any("archive" in each for each in site.node.degraded()), 5, "a healthy node"
    )
