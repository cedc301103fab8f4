"""Rules and dashboards name existing metrics, and every alert has a runbook."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

import aggregator.runtime.metrics
from aggregator.runtime.config import duration_ms
from tests.unit.packaging.files import ROOT, anchors, services, yaml_of
from tests.unit.packaging.promql import asked

# Created by Prometheus.
PROMETHEUS = {"up": {"job"}, "ALERTS": {"alertname", "alertstate"}}
# Created by django-prometheus.
DJANGO = {"django_http_requests_latency_including_middlewares_seconds_bucket": {"le"}}
EVERYWHERE = {"instance", "job"}
RUNBOOK = "docs/operations.md"
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]+)"')
DASHBOARDS = sorted((ROOT / "infra/grafana/dashboards").glob("*.json"))
RULES = [
    rule
    for group in yaml_of("infra/prometheus/rules/swaps.yml")["groups"]
    for rule in group["rules"]
]


def declared() -> dict[str, set[str]]:
    """Return the labels of every series of our metrics."""
    found = PROMETHEUS | DJANGO
    for metric in vars(aggregator.runtime.metrics).values():
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
    assert named.metrics or expression in {"vector(0)", "vector(1)"}
    assert named.metrics <= set(DECLARED), named.metrics - set(DECLARED)
    labels = set().union(*(DECLARED[metric] for metric in named.metrics))
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
    assert rule["labels"]["severity"] in {"page", "ticket", "none"}
    assert set(rule["annotations"]) == {"summary", "runbook_url"}
    base, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert base == "{{ $externalLabels.runbooks }}"
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


def test_every_alert_is_sent_with_the_address_of_its_runbook() -> None:
    configuration = yaml_of("infra/prometheus/prometheus.yml")
    base = configuration["global"]["external_labels"]["runbooks"]
    assert base.startswith("https://") and "#" not in base
    [manager] = configuration["alerting"]["alertmanagers"]
    [target] = manager["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    alertmanager, prometheus = services()[name], services()["prometheus"]
    assert set(alertmanager["networks"]) & set(prometheus["networks"])
    [published] = alertmanager["ports"]
    assert published.endswith(f":{port}")
    mounted = dict(mount.split(":")[:2] for mount in alertmanager["volumes"])
    files = [each.partition("=")[2] for each in alertmanager["command"] if "config.file" in each]
    assert [mounted["./infra/alertmanager/alertmanager.yml"]] == files


def test_alertmanager_sends_each_severity_somewhere_and_the_watchdog_often() -> None:
    configuration = yaml_of("infra/alertmanager/alertmanager.yml")
    receivers = {each["name"] for each in configuration["receivers"]}
    top = configuration["route"]
    routes = [top, *top["routes"]]
    assert {each["receiver"] for each in routes} == receivers, "each receiver is used and is there"
    for each in [*routes, *configuration["inhibit_rules"]]:
        for name in ("matchers", "source_matchers", "target_matchers"):
            for matcher in each.get(name, []):
                label, _, names = MATCHER.fullmatch(matcher).groups()  # type: ignore[union-attr]
                known = {rule["alert"] for rule in RULES} | {"page", "ticket", "none"}
                assert label in {"alertname", "severity"}
                assert set(names.split("|")) <= known
        for name in ("group_wait", "group_interval", "repeat_interval"):
            assert duration_ms(each[name]) >= 0 if name in each else True
    [watchdog] = [r for r in top["routes"] if r["matchers"] == ['alertname="SwapsWatchdog"']]
    assert duration_ms(watchdog["repeat_interval"]) <= 60_000
    assert top["routes"].index(watchdog) == 0, "no route before it takes it"


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
