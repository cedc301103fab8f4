"""The sources as a Django app, so that manage.py finds their commands."""

from __future__ import annotations

from django.apps import AppConfig


class SourcesConfig(AppConfig):
    """Commands only; nothing happens at start."""

    name = "sources"
