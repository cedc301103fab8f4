"""Django's settings, all derived from the one `aggregator.runtime.config.Config`: wiring only.

Importing this reads the environment and configures logging; it opens no file and no connection.
Faults in the environment end the process here, with every fault named and exit status 2, whichever
of manage.py and the ASGI server imported it.
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
# The commands need no lasting secret, so they get a random one; `swapsite.asgi` refuses to serve
# with it.
SECRET_KEY = SWAPS.django_secret_key or get_random_secret_key()
ALLOWED_HOSTS = list(SWAPS.django_allowed_hosts)

INSTALLED_APPS = [
    # before the admin, whose look they change
    "console",
    "aggregator",
    "api",
    "api.page",
    "console.site.OperatorsAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    # for the static files of its Swagger UI
    "ninja",
    "django_prometheus",
]
# The tables of the console keep the labels that they were made under.
MIGRATION_MODULES = {
    "aggregator": "console.migrations.aggregator",
    "api": "console.migrations.api",
}
# The operators' decisions for web nodes; named here because `api` must not import `console`.
DECISIONS = "console.decisions"
# `guard` answers everything but the admin itself: the others, which hop to a thread, are for the
# admin's pages, those of django-prometheus among them.
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
# The JavaScript client: the dashboard is one of its users.
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
# What counts the attempts to log in; sessions and pages are not cached.
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
# `guard` takes the header away where no trusted proxy sent it.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if SWAPS.trusted_proxies else None
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SWAPS.https_only
# A browser takes a cookie of this name over TLS only, from this host only.
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
# what the admin shows; UTC
DATETIME_FORMAT = "Y-m-d H:i:s"
DATE_FORMAT = "Y-m-d"
USE_TZ = True

configure_structlog()
LOGGING_CONFIG = "logging.config.dictConfig"
LOGGING = logging_config(SWAPS.log_format, SWAPS.log_level)
