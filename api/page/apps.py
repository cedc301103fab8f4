"""The dashboard as a Django app, so that Django finds its templates and static files."""

from __future__ import annotations

from django.apps import AppConfig


class PageConfig(AppConfig):
    """The app's name and label; it has no models."""

    name = "api.page"
    label = "page"
