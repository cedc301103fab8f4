"""The page "ClickHouse health": the report of `aggregator.clickhouse.health`.

Rendered in Django's thread for synchronous views, so a slow ClickHouse delays only this page.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from aggregator.clickhouse.health.report import HealthVerdict, Report, report
from console.models.views import ClickHouseHealth
from console.pages.read_only import ReadOnlyAdmin

_SAYS = {
    HealthVerdict.OK: "All is well.",
    HealthVerdict.WATCH: "Nothing is broken. Keep an eye on these rows.",
    HealthVerdict.ACT: "Somebody should act now.",
}


if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[ClickHouseHealth]
else:  # generic for the type checker alone
    _ModelAdmin = admin.ModelAdmin


@admin.register(ClickHouseHealth)
class ClickHouseHealthAdmin(ReadOnlyAdmin, _ModelAdmin):
    """A read-only page for staff with the permission `aggregator.view_clickhousehealth`."""

    def get_urls(self) -> list[URLPattern]:
        """Serve the list page only: the model has no table to add to or to change."""
        page = self.admin_site.admin_view(self.changelist_view)
        return [path("", page, name="aggregator_clickhousehealth_changelist")]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """Render the report, also while ClickHouse is down."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        began = time.monotonic()
        found = report(settings.SWAPS.clickhouse_url)
        context = {
            **self.admin_site.each_context(request),
            "title": "ClickHouse health",
            "opts": self.opts,
            "report": found,
            "says": _says(found),
            "read_at": dt.datetime.now(dt.UTC),
            "took_ms": round((time.monotonic() - began) * 1000),
            **(extra_context or {}),
        }
        response = TemplateResponse(
            request, "admin/aggregator/clickhousehealth/change_list.html", context
        )
        response.headers["Cache-Control"] = "no-store"
        return response


def _says(found: Report) -> str:
    return f"ClickHouse is down: {found.down}" if found.down else _SAYS[found.verdict]
