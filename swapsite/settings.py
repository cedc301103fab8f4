"""Django's settings, all derived from `aggregator.runtime.config.Config`: wiring only.

Importing this module reads the environment and configures logging; it opens no connection. Faulty
settings end the process here with exit status 2 and a list of all faults, under manage.py and under
an ASGI server.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from django.core.management.utils import get_random_secret_key

from aggregator.runtime.config import load
from aggregator.runtime.errors import ConfigError
from swapsite.database import databases
from swapsite.logs import configure_structlog, logging_config

try:
    SWAPS = load(os.environ)
except ConfigError as error:
    sys.stderr.write(f"{error}\n")
    raise SystemExit(2) from None

BASE_DIR = Path(__file__).resolve().parent.parent
ISSUER_DIR = Path(os.environ.get("ISSUER_DIR") or BASE_DIR / "var" / "issuer")

DEBUG = SWAPS.debug
# Commands need no persistent secret, so they get a random one; `swapsite.asgi` refuses to serve
# with it.
SECRET_KEY = SWAPS.django_secret_key or get_random_secret_key()
ALLOWED_HOSTS = list(SWAPS.django_allowed_hosts)

INSTALLED_APPS = [
    # Before the admin, whose templates they override.
    "console",
    "aggregator",
    "api",
    "api.page",
    "sources",
    "console.site.OperatorsAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    # For the static files of its Swagger UI.
    "ninja",
    "django_prometheus",
]
# The tables of the console keep their original app labels.
MIGRATION_MODULES = {
    "aggregator": "console.migrations.aggregator",
    "api": "console.migrations.api",
}
# The module of the operators' decisions; `api` imports it by name because it must not depend on
# `console`.
DECISIONS = "console.decisions"
# `guard` answers everything except the admin. The other middleware switches to a thread, so it
# runs for the pages of the admin only, that of django-prometheus included.
MIDDLEWARE = [
    "api.http.middleware.guard",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "api.http.headers.csp_nonce",
            ]
        },
    }
]
STATIC_URL = "/static/"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "api.page.files.ReleaseStorage"},
}
# The JavaScript client, which the dashboard uses.
STATICFILES_DIRS = [("clients", BASE_DIR / "clients" / "js")]
ROOT_URLCONF = "swapsite.urls"
ASGI_APPLICATION = "swapsite.asgi.application"
APPEND_SLASH = False

DATABASES = databases(SWAPS, BASE_DIR / "var" / "db.sqlite3")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_REDIS = {"hosts": [SWAPS.redis_url], "prefix": "control:"}
CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": _REDIS}
}
# Counts the login attempts; sessions and pages are not cached.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": SWAPS.redis_url,
        "KEY_PREFIX": "rl:login",
        "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1},
    }
}

SECURE_SSL_REDIRECT = SWAPS.https_only
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if SWAPS.https_only else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = SWAPS.https_only
# `guard` removes the header unless a trusted proxy sent it.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if SWAPS.trusted_proxies else None
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SWAPS.https_only
# Browsers accept a cookie with this prefix only over TLS and only from this host.
SESSION_COOKIE_NAME = "__Host-session" if SWAPS.https_only else "session"
CSRF_COOKIE_NAME = "__Host-csrf" if SWAPS.https_only else "csrf"
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Strict"
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = 8 * 3600
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
CSRF_TRUSTED_ORIGINS = list(SWAPS.csrf_trusted_origins)
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = FILE_UPLOAD_MAX_MEMORY_SIZE = SWAPS.body_limit
DATA_UPLOAD_MAX_NUMBER_FILES = 4
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
# Formats of the admin; times are UTC.
DATETIME_FORMAT = "Y-m-d H:i:s"
DATE_FORMAT = "Y-m-d"
USE_TZ = True

configure_structlog()
LOGGING_CONFIG = "logging.config.dictConfig"
LOGGING = logging_config(SWAPS.log_format, SWAPS.log_level)
