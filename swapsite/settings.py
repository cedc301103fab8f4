"""Django's settings, all derived from the one `aggregator.config.Config`: wiring only.

Importing this reads the environment and configures logging; it opens no file and no connection.
Faults in the environment end the process here, with every fault named and exit status 2, whichever
of manage.py and the ASGI server imported it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from django.core.management.utils import get_random_secret_key

from aggregator.config import load
from aggregator.errors import ConfigError
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

INSTALLED_APPS = ["aggregator", "api"]
# Django's own middleware classes answer in a thread (MiddlewareMixin), which would cost every
# request a hop and take the board off the event loop. What is here is natively asynchronous.
MIDDLEWARE = ["api.http.middleware.guard"]
ROOT_URLCONF = "swapsite.urls"
ASGI_APPLICATION = "swapsite.asgi.application"
APPEND_SLASH = False

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "var" / "db.sqlite3"}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

configure_structlog()
LOGGING_CONFIG = "logging.config.dictConfig"
LOGGING = logging_config(SWAPS.log_format, SWAPS.log_level)
