"""The routes of the site: probes and metrics at the root, the API in /api, the admin in /admin."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import URLPattern, URLResolver, path

from api.http.probes import healthz, readyz
from api.http.routes import api
from api.http.watching import metrics_page, profile
from api.security.login import login

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", healthz),
    path("readyz", readyz),
    path("metrics", metrics_page),
    path("debug/pprof/<str:name>", profile),
    path("api/", api.urls),
    path("admin/login/", login),
    path("admin/", admin.site.urls),
    # Behind a proxy that serves files itself these are never asked for; "insecure" is Django's word
    # for slower than that.
    path("static/<path:path>", serve, {"insecure": True}),
]
