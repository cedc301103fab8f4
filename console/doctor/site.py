"""Checks the web nodes: settings, the keys that verify tokens, and the admin's database."""

from __future__ import annotations

import asyncio
import time

from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor

from aggregator.runtime.config import Config
from aggregator.runtime.errors import ConfigError
from api.auth.jwks import KeySet
from api.auth.keys import load_public_key
from console.doctor.finding import Finding

_SHORTEST_SECRET = 50


def check_settings(config: Config) -> list[Finding]:
    """Check for settings that are valid, but not for production.

    Invalid settings have ended the command before this check.
    """
    found = [Finding("OK", "settings", "all variables are valid and consistent")]
    if config.debug:
        found.append(Finding("WARN", "DEBUG", "on: pages show the source", "set DEBUG=0"))
    secret = config.django_secret_key
    if not secret and not config.debug:
        fix = "set it, or DJANGO_SECRET_KEY_FILE, to 50 random characters, for web nodes"
        found.append(Finding("FAIL", "DJANGO_SECRET_KEY", "is empty: web nodes do not start", fix))
    elif 0 < len(secret) < _SHORTEST_SECRET:
        fix = f"give it at least {_SHORTEST_SECRET} random characters"
        found.append(Finding("WARN", "DJANGO_SECRET_KEY", f"{len(secret)} characters", fix))
    if not config.https_only:
        fix = "set HTTPS_ONLY=1 where TLS is used"
        found.append(Finding("WARN", "HTTPS_ONLY", "off: cookies go over plain http", fix))
    if config.profiling:
        fix = "set PROFILING=0 when you are done"
        found.append(Finding("WARN", "PROFILING", "on", fix))
    return found


def check_keys(config: Config) -> list[Finding]:
    """Check that tokens can be verified."""
    if config.jwt_jwks_url:
        keys = KeySet(config.jwt_jwks_url, time.monotonic)
        asyncio.run(keys.refresh())
        if keys.fault is not None or keys.empty:
            fix = "make sure that the issuer answers here with RSA keys of 2048 bits or more"
            return [Finding("FAIL", "JWT keys", keys.fault or "no usable key", fix)]
        return [Finding("OK", "JWT keys", f"read from {config.jwt_jwks_url}")]
    try:
        key = load_public_key(config.jwt_public_key_file)
    except ConfigError as error:
        fix = "name the issuer's RSA public key (PEM), or its JWKS address in JWT_JWKS_URL"
        return [Finding("FAIL", "JWT keys", "; ".join(error.faults), fix)]
    said = f"{key.key_size} bits RSA in {config.jwt_public_key_file}"
    return [Finding("OK", "JWT keys", said)]


def check_database(_config: Config) -> list[Finding]:
    """Check that the admin's database is reachable and migrated to this version."""
    connection = connections[DEFAULT_DB_ALIAS]
    try:
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except (DatabaseError, OSError) as error:
        fix = "check DATABASE_URL or DATABASE_FILE, and that its directory is writable"
        return [Finding("FAIL", "admin database", str(error).strip(), fix)]
    finally:
        connection.close()
    if plan:
        said = f"{len(plan)} migrations are not applied, the first {plan[0][0]}"
        return [Finding("FAIL", "admin database", said, "run manage.py migrate")]
    return [Finding("OK", "admin database", f"{connection.vendor}, up to date")]
