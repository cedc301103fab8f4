"""Monitoring of the running service: metrics, probes, profiles, spans and the ids in its log.

One aggregator, one archiver and one web node that have counted, refused, archived and published.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aggregator.contracts.units import MINUTE_MS
from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import load
from infra.embedded.engine import Process
from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.support.archived import archive, token_at
from tests.support.otlp import Collector, attributes
from tests.support.plain import PLAIN
from tests.support.processes import wait_until
from tests.support.promtool import build_pprof, expressions, told
from tests.support.service import Service, swap
from tests.unit.packaging.promql import asked

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")


class Watched:
    """The processes and their ports."""

    def __init__(self, service: Service, collector: Collector) -> None:
        self.service = service
        self.collector = collector
        self.ports = {"aggregator": free_port(), "archiver": free_port()}
        self.processes: dict[str, Process] = {}

    def start(self) -> None:
        """Start all three and produce swaps for them."""
        for name, port in self.ports.items():
            options = ["--no-archiver"] if name == "aggregator" else []
            start = getattr(self.service, name)
            self.processes[name] = start(name, *options, METRICS_PORT=str(port))
        self.processes["web"] = self.service.web()
        now = time.time_ns() // 1_000_000
        swaps = [swap(number, token=token_at(0, number % 7)) for number in range(200)]
        too_old = swap(1_000, token=token_at(0, 0), timestamp=now - 25 * 60 * MINUTE_MS)
        values = [*swaps, *swaps[:20], too_old, b"no JSON"]
        self.service.wait_ready(100)
        self.service.produce(values, partition=0)
        self.service.wait_trades(200, 60)
        wait_until(lambda: self.sample("archiver", "swaps_archive_rows_total") >= 201, 60, "rows")

    def get(self, process: str, path: str, **headers: str) -> httpx.Response:
        """GET a path of a process."""
        port = self.ports.get(process, self.service.web_port)
        return httpx.get(
            f"http://127.0.0.1:{port}{path}", headers=headers, timeout=60, verify=PLAIN
        )

    def metrics(self, process: str) -> str:
        """Return the scrape of a process."""
        answer = self.get(process, "/metrics")
        assert answer.status_code == 200
        return answer.text

    def sample(self, process: str, name: str) -> float:
        """The sum of a series over its labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.metrics(process))
            for sample in family.samples
            if sample.name == name
        )


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Iterator[Watched]:
    with archive(stack.clickhouse.url) as kept, Collector() as collector:
        settings = {
            "CLICKHOUSE_URL": kept.url,
            "ARCHIVE_LINGER": "100ms",
            "KAFKA_GROUP_PROTOCOL": "consumer",
            "PROFILING": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        directory = tmp_path_factory.mktemp("watched")
        settings["DATABASE_FILE"] = str(directory / "db.sqlite3")
        with Service(directory, stack, **settings) as service:
            ensure_topics(load(service.env))
            assert service.manage("migrate", "-v", "0").returncode == 0
            found = Watched(service, collector)
            found.start()
            yield found


def series(text: str) -> set[str]:
    """Return the series names of a scrape."""
    names = set()
    for family in text_string_to_metric_families(text):
        if family.type == "counter":
            names.add(f"{family.name}_total")
        elif family.type == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
        else:
            names.add(family.name)
    return names


def test_every_panel_and_alert_asks_for_what_is_shown(watched: Watched) -> None:
    shown = {"up"} | set.union(*(series(watched.metrics(each)) for each in ("web", *watched.ports)))
    assert {name for name in shown if name.startswith("django_http_")}
    for title, expression in expressions().items():
        assert asked(expression).metrics <= shown, title
    assert not asked("rate(swaps_ingest_event_total[1m])").metrics <= shown


def saved_at(watched: Watched) -> list[float]:
    """Return when the partitions' snapshots were saved, in seconds since the epoch."""
    return [
        sample.value
        for family in text_string_to_metric_families(watched.metrics("aggregator"))
        for sample in family.samples
        if sample.name == "swaps_snapshot_saved_seconds"
    ]


def test_what_happened_is_counted(watched: Watched) -> None:
    """Each stage counts what the fixture did."""
    expected = {
        "aggregator": {
            "swaps_ingest_events_total": 222,
            "swaps_ingest_duplicates_total": 20,
            "swaps_ingest_late_total": 1,
            "swaps_ingest_dead_letters_total": 1,
            "swaps_ingest_lag_offsets": 0,
            "swaps_ingest_lag_seconds": 0,
        },
        "archiver": {"swaps_archive_rows_total": 201, "swaps_archive_batch_rows_sum": 201},
        "web": {"swaps_board_tokens": 7, "swaps_board_stale_partitions": 0},
    }
    for process, numbers in expected.items():
        for name, number in numbers.items():
            wait_until(
                lambda p=process, n=name, v=number: watched.sample(p, n) == v,
                20,
                f"{name} {number}",
            )
    for process, name in [
        ("aggregator", "swaps_snapshot_bytes_total"),
        ("aggregator", "swaps_pubsub_patches_total"),
        ("archiver", "swaps_archive_disk_bytes"),
        ("web", "swaps_board_patches_total"),
        ("web", "swaps_http_requests_total"),
    ]:
        assert watched.sample(process, name) > 0, name
    # A partition reports it after its first save.
    wait_until(lambda: saved_at(watched), 20, "a snapshot that was saved")
    assert all(0 <= time.time() - at < 600 for at in saved_at(watched))


def test_promtool_takes_the_scrapes_and_every_expression(
    watched: Watched, promtool: Path, tmp_path: Path
) -> None:
    for process in ("web", *watched.ports):
        status, text = told(promtool, "check", "metrics", given=watched.metrics(process).encode())
        ours = [line for line in text.splitlines() if line.startswith("swaps_")]
        assert (ours, status in {0, 3}) == ([], True), text
    rules = [
        {"record": f"asked:{number}", "expr": expression, "labels": {"of": title}}
        for number, (title, expression) in enumerate(expressions().items())
    ]
    path = tmp_path / "asked.yml"
    path.write_text(json.dumps({"groups": [{"name": "asked", "rules": rules}]}))
    status, text = told(promtool, "check", "rules", path)
    assert status == 0, text
    assert f"{len(rules)} rules found" in text


def test_metrics_of_a_web_node_are_not_for_everybody(watched: Watched) -> None:
    assert watched.get("web", "/metrics").status_code == 200
    through_a_proxy = {"X-Forwarded-For": "127.0.0.1"}
    refused = watched.get("web", "/metrics", **through_a_proxy)
    assert (refused.status_code, refused.json()["code"]) == (401, "token_missing")
    bearer = {"Authorization": f"Bearer {watched.service.token}"}
    assert watched.get("web", "/metrics", **through_a_proxy, **bearer).status_code == 200
    # As Prometheus requests it: by an address that is not a host name of the site.
    assert watched.get("web", "/metrics", Host="172.31.251.9:8000").status_code == 200


def test_the_probes_of_aggregator_and_archiver(watched: Watched) -> None:
    for process in watched.ports:
        assert watched.get(process, "/healthz").json() == {"alive": True}
        assert watched.get(process, "/readyz").json() == {
            "ready": True,
            "reasons": [],
            "degraded": [],
        }
        assert watched.get(process, "/nothing").status_code == 404


def test_folded_lines_show_where_the_time_goes(watched: Watched) -> None:
    bearer = {"Authorization": f"Bearer {watched.service.token}"}
    for process, headers in [("aggregator", {}), ("archiver", {}), ("web", bearer)]:
        path = "/debug/pprof/profile?seconds=0.5&format=folded&value=wall"
        answer = watched.get(process, path, **headers)
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8", answer.text
        assert any(line.startswith("MainThread;") for line in answer.text.splitlines())


def test_profiles_of_a_web_node_ask_for_an_operator(watched: Watched) -> None:
    path = "/debug/pprof/profile?seconds=0.1"
    assert watched.get("web", path).status_code == 401
    weak = ["issue_token", "--sub", "weak", "--scope", "stats:read"]
    bearer = {"Authorization": f"Bearer {watched.service.manage(*weak).stdout.strip()}"}
    refused = watched.get("web", path, **bearer)
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    strong = {"Authorization": f"Bearer {watched.service.token}"}
    wrong = watched.get("web", "/debug/pprof/heap?seconds=x", **strong)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "profile_refused")


@needs_go
@pytest.mark.timeout(600)
def test_go_reads_the_profiles(watched: Watched, tmp_path: Path) -> None:
    """With the program of `go tool pprof`, which the first test on a machine compiles."""
    pprof = build_pprof(tmp_path)
    bearer = {"Authorization": f"Bearer {watched.service.token}"}
    for process, name, kind, found in [
        ("aggregator", "profile", "wall", "MemberLoop.round"),
        ("web", "profile", "wall", "<module>"),
        ("web", "heap", "inuse_space", "bytes"),
    ]:
        headers = bearer if process == "web" else {}
        answer = watched.get(process, f"/debug/pprof/{name}?seconds=1", **headers)
        assert answer.status_code == 200, answer.text
        path = tmp_path / f"{process}-{name}.pb.gz"
        path.write_bytes(answer.content)
        command = [pprof, "-top", "-cum", f"-sample_index={kind}", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert f"Type: {kind}" in done.stdout
        assert found in done.stdout or found == "bytes", done.stdout
        print(done.stdout[:1500])


def test_spans_arrive_with_the_trace_of_the_caller(watched: Watched) -> None:
    spans = watched.collector.spans
    bearer = {"Authorization": f"Bearer {watched.service.token}"}
    traced = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    assert watched.get("web", "/api/overview?window=5m", **bearer, **traced).status_code == 200

    def of_trace() -> list[Any]:
        found = spans("swaps-web", "GET /api/overview")
        return [span for span in found if span.trace_id.hex() == TRACE]

    wait_until(lambda: len(of_trace()) == 1, 20, "the request's span")
    [span] = of_trace()
    assert span.parent_span_id.hex() == PARENT
    assert attributes(span) == {
        "http.request.method": "GET",
        "http.route": "/api/overview",
        "http.response.status_code": 200,
    }
    for service, name, key, total in [
        ("swaps-aggregator", "batch apply", "events", 222),
        ("swaps-archiver", "archive batch", "rows", 201),
    ]:
        wait_until(
            lambda s=service, n=name, k=key, t=total: (
                sum(attributes(each)[k] for each in spans(s, n)) == t
            ),
            20,
            name,
        )
        assert {attributes(each)["partition"] for each in spans(service, name)} == {0}


def test_a_log_line_names_the_request_and_the_trace(watched: Watched) -> None:
    """Also for a page, whose views run on other threads."""
    url = f"http://127.0.0.1:{watched.service.web_port}/admin/login/"
    with httpx.Client(verify=PLAIN) as client:
        client.get(url, timeout=60)
        form = {"username": "nobody", "password": "wrong"}
        form["csrfmiddlewaretoken"] = client.cookies["csrf"]
        ids = {"X-Request-ID": "call-7", "traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = client.post(url, data=form, headers=ids, timeout=60)
    assert answer.headers["X-Request-ID"] == "call-7"
    [line] = watched.service.logged(watched.processes["web"], "admin_login_failed")
    assert (line["request_id"], line["trace_id"]) == ("call-7", TRACE)
    assert len(line["span_id"]) == 16
    made = watched.get("web", "/healthz").headers["X-Request-ID"]
    assert len(made) == 16
    acquired = watched.service.logged(watched.processes["aggregator"], "partition_live")
    assert {each["partition"] for each in acquired} == {0, 1, 2, 3}
