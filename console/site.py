"""The admin site of `console`: its pages are grouped by task, not by app label."""

from __future__ import annotations

from typing import Any, Final

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest
from django.urls import reverse

# The groups and the models of each, in the order of the index.
_GROUPS: Final = (
    ("Health", ("Pipeline", "ClickHouseHealth", "DeadLetter")),
    ("Tokens", ("RegisteredToken",)),
    ("Callers", ("ApiSubject", "Revocation")),
    ("Operators", ("User", "Group", "LogEntry")),
)


class OperatorsSite(AdminSite):
    """Django's admin with that index."""

    site_header = site_title = "Swap aggregator"
    index_title = "Operations"

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """Return what the user may see, by group; models without a group come last, under More."""
        apps = super().get_app_list(request, app_label)
        if app_label is not None:
            return apps
        models = {model["object_name"]: model for app in apps for model in app["models"]}
        grouped = [
            (title, [models.pop(name) for name in names if name in models])
            for title, names in _GROUPS
        ]
        grouped.append(("More", list(models.values())))
        index = reverse("admin:index", current_app=self.name)
        return [
            {
                "name": title, "app_label": title.lower(), "app_url": index,
                "has_module_perms": True, "models": found,
            }
            for title, found in grouped if found
        ]  # fmt: skip


class OperatorsAdminConfig(AdminConfig):
    """Makes Django's admin use `OperatorsSite`."""

    default = False
    default_site = "console.site.OperatorsSite"
