"""The reference pages of docs/ that are made from the code: every setting, every metric.

`aggregator.runtime.config` and `aggregator.runtime.metrics` hold the texts; this module lays them
out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import groupby
from typing import Final

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from aggregator.runtime import metrics
from aggregator.runtime.config import SECRETS, Config

_MADE: Final = "<!-- Made by `manage.py reference`; edit the source, then run it. -->\n\n"
_AREAS: Final = {
    "ingest": "Reading Kafka (aggregator)",
    "store": "Markers in Redis (aggregator)",
    "window": "The windows (aggregator)",
    "snapshot": "Snapshots (aggregator)",
    "pubsub": "Publishing on NATS (aggregator)",
    "archive": "The archive (archiver, or the aggregator that runs one)",
    "dependency": "Engines (every process)",
    "clock": "The host's clock (aggregator, web)",
    "board": "The board (web)",
    "http": "REST (web)",
    "auth": "Tokens (web)",
    "limits": "Limits (web)",
    "ws": "WebSockets (web)",
}
_TYPES: Final[Mapping[type[MetricWrapperBase], str]] = {
    Counter: "counter",
    Gauge: "gauge",
    Histogram: "histogram",
}


def declared() -> dict[str, MetricWrapperBase]:
    """Our metrics by the name of their series, without a histogram's endings."""
    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            [family] = metric.describe()
            found[family.name + "_total" * isinstance(metric, Counter)] = metric
    return found


def metrics_page() -> str:
    """docs/metrics.md."""
    text = (
        "# Metrics\n\n" + _MADE + "Aggregator and archiver show them at "
        "`http://METRICS_HOST:METRICS_PORT/metrics`, a web node at `/metrics` for the networks of "
        "`METRICS_ALLOW` or a token with the scope `ops:read`. A histogram has `_bucket`, `_sum` "
        "and `_count`. Labels are bounded: partitions, engines, disks, and names that stand in the "
        "source. Beside these a web node shows django-prometheus's `django_http_*` of the pages of "
        "the admin, and every process the client library's `process_*` and `python_*`.\n"
    )
    for area, of_area in groupby(declared().items(), lambda item: item[0].split("_")[1]):
        text += (
            f"\n## {_AREAS[area]}\n\n| metric | type | labels | what it says |\n|---|---|---|---|\n"
        )
        for name, metric in of_area:
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            kind = _TYPES[type(metric)]
            text += f"| `{name}` | {kind} | {labels} | {metric._documentation} |\n"
    return text


def settings_page() -> str:
    """docs/configuration.md."""
    text = (
        "# Configuration\n\n"
        + _MADE
        + "Settings are environment variables, read once at the start "
        "of a process. A fault ends it with status 2, and every fault is named. Durations are "
        "written as `250ms`, `2s`, `5m`, `24h`, `7d`; lists have commas between. A setting that "
        "holds a secret (marked) may stand in a file instead, which the variable with `_FILE` "
        "behind its name names. All processes of a deployment need the same `KAFKA_TOPIC`, "
        "`KAFKA_PARTITIONS`, `WINDOWS`, `GRACE`, `MAX_FUTURE`, `CLOCK` and `MARKER_TTL`. "
        "`manage.py doctor` checks an installation against them.\n\n"
        "| variable | default | meaning |\n|---|---|---|\n"
    )
    for spec in fields(Config):
        name, default = spec.metadata["env"], spec.metadata["default"]
        shown = f"`{default}`" if default else "empty"
        secret = " (secret)" if name in SECRETS else ""
        text += f"| `{name}`{secret} | {shown} | {spec.metadata['doc'].replace('|', '/')} |\n"
    return text + _OTHERS


_OTHERS: Final = """
Read by commands and by the libraries beneath, not by the service:

| variable | default | meaning |
|---|---|---|
| `ISSUER_DIR` | `var/issuer` | where `manage.py issue_token` keeps the demo issuer's keys |
| `NUMBA_CACHE_DIR` | beside the code | where the compiled engine is kept |
| `OTEL_EXPORTER_OTLP_HEADERS`, other `OTEL_*` | | OpenTelemetry's own, where tracing is on |
"""

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "docs/configuration.md": settings_page,
    "docs/metrics.md": metrics_page,
}
