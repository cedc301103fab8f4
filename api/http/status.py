"""The status of the service for operators: partitions, owners, archive, sources and versions."""

from __future__ import annotations

import platform

import msgspec

from aggregator.contracts.sources import SourceStatus
from aggregator.contracts.stats import ArchiveStatus
from aggregator.runtime.version import VERSION
from api.board.board import PartitionStatus
from api.board.rates import CountRate
from api.http.probes import readiness_of
from api.services import Services


class Status(msgspec.Struct, frozen=True):
    """The answer of `/api/status`.

    `ready`, `reasons` and `degraded` are those of `/readyz`. `nats` is what is wrong with NATS, or
    null. `rates` has the owners whose heartbeats arrived for some seconds. `archive` is
    empty until an archiver reports, and `sources` until a source does. `versions` has this web
    node ("web", "python") and the partitions' owners ("aggregators").
    """

    ready: bool
    reasons: list[str]
    degraded: list[str]
    as_of: int | None
    nats: str | None
    partitions: list[PartitionStatus]
    rates: list[CountRate]
    archive: list[ArchiveStatus]
    sources: list[SourceStatus]
    versions: dict[str, str | list[str]]


def status_of(parts: Services) -> Status:
    """Return the answer of `/api/status` for these parts."""
    readiness = readiness_of(parts)
    aggregators = {each.version for each in readiness.partitions if each.version is not None}
    return Status(
        ready=readiness.ready,
        reasons=readiness.reasons,
        degraded=readiness.degraded,
        as_of=parts.board.as_of(),
        nats=parts.feed.fault,
        partitions=readiness.partitions,
        rates=parts.feed.rates.all(),
        archive=parts.feed.archives.status(parts.now_ms()),
        sources=parts.feed.sources.status(parts.now_ms()),
        versions={
            "web": VERSION,
            "python": platform.python_version(),
            "aggregators": sorted(aggregators),
        },
    )
