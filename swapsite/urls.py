"""The routes of the site: probes at the root, the API under /api."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from api.http.probes import healthz, readyz
from api.http.routes import api

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", healthz),
    path("readyz", readyz),
    path("api/", api.urls),
]
