"""The admin as operators see it: its pages by what one does there, not by Django app."""

from __future__ import annotations

from typing import Any, Final

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest
from django.urls import reverse

# The groups in order, with the models of each in order.
_GROUPS: Final = (
    ("Health", ("Pipeline", "ClickHouseHealth", "DeadLetter")),
    ("Tokens", ("RegisteredToken",)),
    ("Callers", ("ApiSubject", "Revocation")),
    ("Operators", ("User", "Group", "LogEntry")),
)


class OperatorsSite(AdminSite):
    """Django's admin with its index in that order."""

    site_header = site_title = "Swap aggregator"
    index_title = "Operations"

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """What the person may see; a model that is in no group is in one of its own at the end."""
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
    """Has Django's admin use the site."""

    default = False
    default_site = "console.site.OperatorsSite"
