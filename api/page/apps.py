"""The dashboard as a Django app, so that its templates and static files are found."""

from __future__ import annotations

from django.apps import AppConfig


class PageConfig(AppConfig):
    """Has no models and does nothing at start."""

    name = "api.page"
    label = "page"
