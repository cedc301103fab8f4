"""The health page: each verdict against a server with that fault, and who may see the page."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aggregator.clickhouse.connection import ClickHouseClient, Refused
from aggregator.clickhouse.health.report import HealthVerdict, Report, Row, report
from aggregator.runtime.config import Config
from infra.embedded.clickhouse import ClickHouse as ClickHouseEngine
from infra.embedded.ports import free_port
from infra.embedded.s3 import S3
from infra.embedded.stack import Stack
from tests.support.archive_rows import Row as Swap
from tests.support.archive_rows import archive, insert
from tests.support.web_nodes import Node, Nodes

pytestmark = pytest.mark.engines

PAGE = "/admin/aggregator/clickhousehealth/"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("own"), only=(S3, ClickHouseEngine)) as stack:
        yield stack


@pytest.fixture
def made(own: Stack) -> Iterator[tuple[ClickHouseClient, Config]]:
    with archive(own.clickhouse.url) as both:
        yield both


def rows(found: Report, what: str) -> list[Row]:
    assert found.down is None
    return [row for each in found.sections for row in each.rows if row.what.startswith(what)]


def test_an_archive_that_is_well(made: tuple[ClickHouseClient, Config]) -> None:
    _, config = made
    now = time.time_ns() // 1_000_000
    insert(config, [Swap(number=n, timestamp=now) for n in range(5)])
    found = report(config.clickhouse_url)
    titles = [section.title for section in found.sections]
    assert titles == ["Writing", "Disks", "Tables", "Merges and moves", "Queries", "Server"]
    (newest,) = rows(found, "Newest insert")
    assert newest.verdict is HealthVerdict.OK
    (schema,) = rows(found, "Schema")
    assert (schema.verdict, schema.value) == (HealthVerdict.OK, "5 tables and views")
    assert rows(found, "Insert tokens kept")[0].value == "10,000 on each table"
    (hot,) = rows(found, "hot")
    assert hot.share is not None
    assert "of the archive in 3 parts" in hot.value
    assert "S3" in rows(found, "cold")[0].what
    (table,) = rows(found, "raw_swaps on default")
    assert "1 active part, 0 inactive; 5 rows" in table.value
    assert rows(found, "Version")[0].value.startswith("2")
    assert all(row.advice for row in found.attention)
    assert all(not row.advice for s in found.sections for row in s.rows if row.verdict == "ok")


def test_what_is_not_well_comes_first(made: tuple[ClickHouseClient, Config]) -> None:
    clickhouse, config = made
    clickhouse.execute("DROP TABLE candles_1m_view")
    clickhouse.execute(
        "ALTER TABLE raw_swaps MODIFY SETTING non_replicated_deduplication_window = 100"
    )
    with pytest.raises(Refused):
        clickhouse.execute("SELECT no_such_column FROM raw_swaps")
    found = report(config.clickhouse_url)
    assert found.verdict is HealthVerdict.ACT
    assert rows(found, "Schema")[0].value == "missing: candles_1m_view"
    assert "raw_swaps 100" in rows(found, "Insert tokens kept")[0].value
    assert rows(found, "Error UNKNOWN_IDENTIFIER")[0].verdict is HealthVerdict.WATCH
    assert rows(found, "Newest insert")[0].value == "nothing is archived yet"
    verdicts = [row.verdict for row in found.attention]
    assert verdicts == sorted(verdicts, key=[HealthVerdict.ACT, HealthVerdict.WATCH].index)
    assert verdicts.count(HealthVerdict.ACT) == 2


def test_many_parts_are_to_be_watched(made: tuple[ClickHouseClient, Config]) -> None:
    clickhouse, config = made
    clickhouse.execute("SYSTEM STOP MERGES raw_swaps")
    clickhouse.execute(
        "INSERT INTO raw_swaps (chain, token, timestamp, tx_hash, sign) "
        "SELECT 'c', 't', now(), toString(number), 1 FROM numbers(310) "
        "SETTINGS max_block_size = 1, min_insert_block_size_rows = 1, max_insert_threads = 1, "
        "insert_deduplicate = 0"
    )
    (table,) = rows(report(config.clickhouse_url), "raw_swaps on default")
    assert table.verdict is HealthVerdict.WATCH
    assert "ARCHIVE_BATCH" in table.advice


def test_a_server_that_is_down() -> None:
    found = report(f"clickhouse://default:@127.0.0.1:{free_port()}/default")
    assert found.verdict is HealthVerdict.ACT
    assert found.down is not None
    assert "Connection refused" in found.down


def test_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        found = report(f"clickhouse://default:@127.0.0.1:{mute.getsockname()[1]}/default")
        assert time.monotonic() - began < 3
    assert found.down is not None


class Visitor:
    """A browser that logs in."""

    def __init__(self, node: Node, name: str) -> None:
        self._http = httpx.Client(base_url=node.url, follow_redirects=True, timeout=20)
        form = self._http.get(f"/admin/login/?next={PAGE}")
        match = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.text)
        assert match, form.text
        fields = {"username": name, "password": "correct horse", "csrfmiddlewaretoken": match[1]}
        self._http.post("/admin/login/", data=fields, headers={"Referer": node.url})

    def page(self) -> httpx.Response:
        return self._http.get(PAGE)

    def close(self) -> None:
        self._http.close()


_USERS = """
from django.contrib.auth.models import Permission, User
make = User.objects.create_user
seer = make("seer", password="correct horse", is_staff=True)
seer.user_permissions.add(Permission.objects.get(codename="view_clickhousehealth"))
make("staff", password="correct horse", is_staff=True)
make("guest", password="correct horse")
"""


def test_the_page(own: Stack, made: tuple[ClickHouseClient, Config], tmp_path: Path) -> None:
    _, config = made
    insert(config, [Swap(number=1, timestamp=time.time_ns() // 1_000_000)])
    with Nodes(tmp_path, CLICKHOUSE_URL=config.clickhouse_url) as nodes:
        nodes.shell(_USERS)
        node = nodes.web()
        nobody = httpx.get(f"{node.url}{PAGE}", timeout=20)
        assert nobody.status_code == 302
        assert "/admin/login/" in nobody.headers["Location"]
        seen = {}
        for name in ("guest", "staff", "seer"):
            visitor = Visitor(node, name)
            seen[name] = visitor.page()
            if name != "seer":
                visitor.close()
        assert "ClickHouse health" not in seen["guest"].text
        assert seen["staff"].status_code == 403
        assert seen["seer"].status_code == 200
        text = seen["seer"].text
        assert "Newest insert" in text
        assert "raw_swaps on default" in text
        assert "clickhouse_health.css" in text
        style = httpx.get(f"{node.url}/static/aggregator/clickhouse_health.css", timeout=20)
        assert style.status_code == 200

        own.clickhouse.kill()
        began = time.monotonic()
        down = visitor.page()
        assert time.monotonic() - began < 3
        assert down.status_code == 200
        assert "ClickHouse is down: " in down.text
        visitor.close()
        own.clickhouse.start()
