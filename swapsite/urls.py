"""The routes: dashboard, probes and metrics at the root, then /api, /admin and /static."""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, path

from api.http.probes import healthz, readyz, readyz_node
from api.http.routes import api
from api.http.watching import metrics_page, profile
from api.page.files import static_file
from api.page.views import demo_token, page
from console.login import login

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", healthz),
    path("readyz", readyz),
    path("readyz/node", readyz_node),
    path("metrics", metrics_page),
    path("debug/pprof/<str:name>", profile),
    path("api/", api.urls),
    path("admin/login/", login),
    path("admin/", admin.site.urls),
    path("static/<path:path>", static_file),
    path("", page),
    path("tokens/<path:token_id>", page),
    path("demo-token", demo_token),
]
