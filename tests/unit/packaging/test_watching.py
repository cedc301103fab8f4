"""Rules and dashboards name metrics that exist, and every alert says what to do."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

import aggregator.metrics
from tests.unit.packaging.files import ROOT, anchors, services, yaml_of
from tests.unit.packaging.promql import asked

# Made by Prometheus itself.
PROMETHEUS = {"up": {"job"}, "ALERTS": {"alertname", "alertstate"}}
# Made by django-prometheus.
DJANGO = {"django_http_requests_latency_including_middlewares_seconds_bucket": {"le"}}
EVERYWHERE = {"instance", "job"}
RUNBOOK = "docs/operations.md"
DASHBOARDS = sorted((ROOT / "infra/grafana/dashboards").glob("*.json"))
RULES = [
    rule
    for group in yaml_of("infra/prometheus/rules/swaps.yml")["groups"]
    for rule in group["rules"]
]


def declared() -> dict[str, set[str]]:
    """The labels of every series that our metrics make."""
    found = PROMETHEUS | DJANGO
    for metric in vars(aggregator.metrics).values():
        if not isinstance(metric, Counter | Gauge | Histogram):
            continue
        labels = set(metric._labelnames)
        [family] = metric.describe()
        if family.type == "histogram":
            found |= {f"{family.name}_{part}": labels for part in ("sum", "count")}
            found[f"{family.name}_bucket"] = labels | {"le"}
        else:
            found[family.name + "_total" * (family.type == "counter")] = labels
    return found


DECLARED = declared()


def panels() -> list[Any]:
    return [
        pytest.param(path.stem, panel, id=f"{path.stem}/{panel['title']}")
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
    ]


def check(expression: str) -> None:
    named = asked(expression)
    assert named.metrics or expression == "vector(0)"
    assert named.metrics <= set(DECLARED), named.metrics - set(DECLARED)
    labels = set.union(*(DECLARED[metric] for metric in named.metrics))
    assert named.labels <= labels | EVERYWHERE, named.labels


def test_the_metrics_are_those_that_a_process_shows() -> None:
    shown = {family.name for family in REGISTRY.collect()}
    for series in set(DECLARED) - set(PROMETHEUS) - set(DJANGO):
        assert re.sub(r"_(total|bucket|sum|count)$", "", series) in shown


def test_a_metric_or_label_that_does_not_exist_is_noticed() -> None:
    for wrong in ("rate(swaps_ingest_event_total[1m])", "sum by (part) (swaps_window_tokens)"):
        with pytest.raises(AssertionError):
            check(wrong)
    with pytest.raises(ValueError):
        check("sum(swaps_window_tokens")


@pytest.mark.parametrize(("dashboard", "panel"), panels())
def test_a_panel_shows_metrics_that_exist(dashboard: str, panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["targets"]
    for target in panel["targets"]:
        check(target["expr"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_metrics_that_exist_and_names_its_runbook(rule: dict[str, Any]) -> None:
    check(rule["expr"])
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert page == RUNBOOK
    assert anchor == rule["alert"].lower()
    assert anchor in anchors(RUNBOOK)


def test_every_runbook_is_of_an_alert() -> None:
    text = (ROOT / RUNBOOK).read_text()
    written = re.findall(r"^### (Swaps\w+)$", text, re.M)
    assert sorted(written) == sorted(rule["alert"] for rule in RULES)


def test_alerts_of_jobs_name_jobs_that_are_scraped() -> None:
    jobs = {
        each["job_name"] for each in yaml_of("infra/prometheus/prometheus.yml")["scrape_configs"]
    }
    named = {
        job
        for rule in RULES
        for found in re.findall(r'job=~?"([^"]+)"', rule["expr"])
        for job in found.split("|")
    }
    assert named <= jobs


def test_targets_are_services_of_compose() -> None:
    found = services()
    for job in yaml_of("infra/prometheus/prometheus.yml")["scrape_configs"]:
        for each in job.get("dns_sd_configs", []):
            assert set(each["names"]) <= set(found)
            assert "watched" in found[each["names"][0]]["networks"]
        for each in job.get("static_configs", []):
            names = {target.partition(":")[0] for target in each["targets"]}
            assert names <= set(found) | {"localhost"}


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    grafana = services()["grafana"]
    [source] = yaml_of("infra/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml_of("infra/grafana/provisioning/dashboards/swaps.yml")["providers"]
    mounted = dict(mount.split(":")[:2] for mount in grafana["volumes"])
    assert mounted["./infra/grafana/dashboards"] == provider["options"]["path"]
    assert {path.stem for path in DASHBOARDS} == {"overview", "pipeline", "sockets", "archive"}
    uids = set()
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        uids.add(dashboard["uid"])
        for panel in dashboard["panels"]:
            assert panel["datasource"]["uid"] == source["uid"]
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
    assert len(uids) == len(DASHBOARDS)
