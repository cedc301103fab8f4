"""The API as a Django app, so that manage.py finds its commands."""

from __future__ import annotations

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """Commands only; the feed starts in the server's event loop (`swapsite.asgi`)."""

    name = "api"
