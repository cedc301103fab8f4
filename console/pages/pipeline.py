"""The page "Pipeline": the sources, and each partition from Kafka to this web node and the archive.

It shows what sources, owners and archivers reported to this web node in the last second.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from aggregator.contracts.sources import SourceStatus
from aggregator.contracts.stats import ArchiveStatus
from api.board.board import PartitionStatus
from api.board.rates import CountRate
from api.board.sources import LAG_MS, fault_of, lag_of
from api.http.status import Status, status_of
from api.services import services
from console.models.views import Pipeline
from console.pages.read_only import ReadOnlyAdmin

if TYPE_CHECKING:
    _Pipeline = admin.ModelAdmin[Pipeline]
else:
    _Pipeline = admin.ModelAdmin

# Above these limits a value is marked; each is several times the usual value.
_LAG_WATCH: Final = 10_000
_WATERMARK_WATCH_S: Final = 120
_SNAPSHOT_WATCH_S: Final = 30
_ARCHIVE_AGE_WATCH_S: Final = 300


class Cell(msgspec.Struct, frozen=True):
    """A number with its unit; `verdict` is "watch" if it needs attention, else ""."""

    text: str
    verdict: str = ""


class PartitionRow(msgspec.Struct, frozen=True):
    """The row of one partition."""

    number: int
    state: str
    verdict: str
    owner: str
    epoch: int
    next_offset: int
    lag: Cell
    watermark: Cell
    snapshot: Cell
    records: Cell
    duplicates: Cell
    late: Cell
    dead_letters: Cell


class ArchiveRow(msgspec.Struct, frozen=True):
    """The row of one partition's archiver."""

    number: int
    state: str
    verdict: str
    next_offset: int
    lag: Cell
    age: Cell
    gaps: str
    fault: str


class SourceRow(msgspec.Struct, frozen=True):
    """The row of one source."""

    name: str
    subject: str
    state: str
    verdict: str
    owner: str
    lag: Cell
    block: str
    last_event: Cell
    events: str
    retractions: str
    gaps: Cell
    fault: str


@admin.register(Pipeline)
class PipelineAdmin(ReadOnlyAdmin, _Pipeline):
    """A read-only page for staff with the permission `api.view_pipeline`."""

    def get_urls(self) -> list[URLPattern]:
        """Serve the list page only: the model has no table to add to or to change."""
        page = self.admin_site.admin_view(self.changelist_view)
        return [path("", page, name="api_pipeline_changelist")]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """Render the page, also if no aggregator has sent a heartbeat."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        status = status_of(services())
        context = {
            **self.admin_site.each_context(request),
            "title": "Pipeline",
            "opts": self.opts,
            "status": status,
            "rows": partition_rows(status, time.time()),
            "archive": [_archive_row(each) for each in status.archive],
            "sources": [_source_row(each) for each in status.sources],
            "read_at": dt.datetime.now(dt.UTC),
            **(extra_context or {}),
        }
        response = TemplateResponse(request, "admin/api/pipeline/change_list.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response


def partition_rows(status: Status, now_s: float) -> list[PartitionRow]:
    """Return the rows of the partitions; `now_s` is wall-clock seconds."""
    rates = {each.partition: each for each in status.rates}
    return [_partition_row(each, rates.get(each.partition), now_s) for each in status.partitions]


def _partition_row(each: PartitionStatus, rate: CountRate | None, now_s: float) -> PartitionRow:
    watermark_s = None if each.watermark is None else max(0.0, now_s - each.watermark / 1_000)
    snapshot_s = None if each.snapshot_age_ms is None else each.snapshot_age_ms / 1_000
    return PartitionRow(
        number=each.partition,
        state=each.state,
        verdict="bad" if each.stale else "watch" if each.degraded else "good",
        owner=each.owner or "-",
        epoch=each.epoch,
        next_offset=each.next_offset,
        lag=_counted(each.lag, _LAG_WATCH),
        watermark=_aged(watermark_s, _WATERMARK_WATCH_S),
        snapshot=_aged(snapshot_s, _SNAPSHOT_WATCH_S),
        records=_tally(each, rate, "records"),
        duplicates=_tally(each, rate, "duplicates"),
        late=_tally(each, rate, "late"),
        dead_letters=_tally(each, rate, "dead_letters", watch=True),
    )


def _archive_row(each: ArchiveStatus) -> ArchiveRow:
    well = each.state == "archiving" and each.fault is None
    return ArchiveRow(
        number=each.partition,
        state=each.state,
        verdict="good" if well and not each.gaps else "bad" if each.fault else "watch",
        next_offset=each.next_offset,
        lag=_counted(each.lag, 10 * _LAG_WATCH),
        age=_aged(None if each.age_ms is None else each.age_ms / 1_000, _ARCHIVE_AGE_WATCH_S),
        gaps=", ".join(f"{first:,} to {end - 1:,}" for first, end in each.gaps) or "none",
        fault=each.fault or "",
    )


def _source_row(each: SourceStatus) -> SourceRow:
    fault, lag_ms = fault_of(each), lag_of(each)
    lost = each.state in {"silent", "standby", "stopped"}
    since_s = None if each.last_event is None else (each.as_of - each.last_event) / 1_000
    block = "-" if each.sent_block is None else f"{each.sent_block:,} of {each.head or 0:,}"
    return SourceRow(
        name=each.source,
        subject=each.subject,
        state=each.state.replace("_", " "),
        verdict="bad" if lost else "watch" if fault or each.gaps_unfilled else "good",
        owner=each.owner or "-",
        lag=_aged(None if lag_ms is None else lag_ms / 1_000, LAG_MS // 1_000),
        block=block,
        last_event=_aged(since_s, _WATERMARK_WATCH_S),
        events=f"{each.events:,}",
        retractions=f"{each.retractions:,}",
        gaps=Cell(f"{each.gaps_unfilled:,}", "watch" if each.gaps_unfilled else ""),
        fault=fault,
    )


def _counted(count: int | None, watch: int) -> Cell:
    if count is None:
        return Cell("-")
    return Cell(f"{count:,}", "watch" if count > watch else "")


def _aged(seconds: float | None, watch: int) -> Cell:
    if seconds is None:
        return Cell("-")
    said = f"{seconds:,.1f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"
    return Cell(said, "watch" if seconds > watch else "")


def _tally(
    each: PartitionStatus, rate: CountRate | None, name: str, *, watch: bool = False
) -> Cell:
    """Return the rate a second, and the total since the owner's takeover."""
    if each.tallies is None:
        return Cell("-")
    total: int = getattr(each.tallies, name)
    a_second = "-" if rate is None else f"{getattr(rate, name):,.1f}/s"
    rising = rate is not None and getattr(rate, name) > 0
    return Cell(f"{a_second} ({total:,})", "watch" if watch and rising else "")
