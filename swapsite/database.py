"""Django's `DATABASES` from one URL: SQLite by default, PostgreSQL with DATABASE_URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from aggregator.runtime.config import Config

_CONNECT_S = "5"


def databases(config: Config, default: Path) -> dict[str, dict[str, Any]]:
    """Return the one database; `default` is the SQLite file unless a setting names another."""
    if config.database_url:
        return {"default": postgresql(config.database_url)}
    return {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": config.database_file or default,
            # Writers wait for each other instead of failing, and readers do not wait for writers.
            "OPTIONS": {
                "timeout": 10,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    }


def postgresql(url: str) -> dict[str, Any]:
    """Parse `postgresql://user:password@host:port/name?sslmode=require`.

    Absent parts get libpq's defaults, and the parameters of the query are those of libpq. Needs the
    package psycopg.
    """
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {"connect_timeout": _CONNECT_S, **dict(parse_qsl(parts.query))},
    }
