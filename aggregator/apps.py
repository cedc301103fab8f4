"""The aggregator as a Django app, so that manage.py finds its commands."""

from __future__ import annotations

from django.apps import AppConfig


class AggregatorConfig(AppConfig):
    """Commands only; nothing happens at start."""

    name = "aggregator"
