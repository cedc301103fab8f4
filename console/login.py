"""The login page of the admin: attempts are limited by address and by name, and logged.

django-ratelimit counts in Redis for all web nodes; while Redis is down each node counts alone. An
attempt that the address's limit refuses is not charged to the name, and the limit of a name is five
times that of an address, so a single host cannot lock an operator out. Many hosts can, but not out
of a browser in which that operator has logged in before: its signed cookie gives it a separate
limit (OWASP, "Slow Down Online Guessing Attacks with Device Cookies").
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
import unicodedata
from typing import Any, Final

import structlog
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.core.cache import cache
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django_ratelimit.core import get_usage
from redis.exceptions import RedisError

from aggregator.runtime import metrics
from api.auth.client_ip import request_ip
from api.auth.ratelimit import BucketRate, LocalBuckets

NAME_FACTOR: Final = 5
LONGEST_NAME: Final = 150
DEVICE_AGE_S: Final = 90 * 24 * 3600
_GROUP: Final = "admin-login"
_DEVICE_SALT: Final = "admin-login-device"

log = structlog.get_logger(__name__)
_local = LocalBuckets(time.monotonic)


@never_cache
@csrf_protect
def login(request: HttpRequest) -> HttpResponse:
    """Serve the login page; 429 after too many attempts, whatever the password."""
    if request.method == "POST" and (wait_s := _wait_s(request)) > 0:
        metrics.LIMITS_HIT.labels("admin_login").inc()
        log.warning("admin_login_limited", ip=request_ip(request))
        return HttpResponse(
            f"Too many attempts to log in. Wait {wait_s} s.\n",
            status=429,
            content_type="text/plain; charset=utf-8",
            headers={"Retry-After": str(wait_s)},
        )
    response = admin.site.login(request)
    assert isinstance(response, HttpResponse)
    if request.method == "POST" and request.user.is_authenticated:
        _remember_device(response, name_digest(request.user.get_username()))
    return response


def name_digest(name: str) -> str:
    """Return the key of a name's counter, equal for all spellings that Django takes for one user.

    The login form normalizes names to NFKC, so a name in full-width letters logs in too.
    """
    # No user has a longer name, and normalization can make a text eighteen times as long.
    folded = unicodedata.normalize("NFKC", name.strip()[: LONGEST_NAME + 1]).casefold()
    plain = unicodedata.normalize("NFKC", folded).strip()
    return hashlib.blake2b(plain.encode(errors="replace"), digest_size=16).hexdigest()


def unlock(name: str) -> None:
    """Reset the counter of a name. Raises redis.RedisError."""
    _, period_s = settings.SWAPS.login_rate
    # The old counter expires within the period, so this key need not last longer than that.
    cache.set(_unlocked_key(name_digest(name)), secrets.token_hex(8), timeout=2 * period_s)


def _wait_s(request: HttpRequest) -> int:
    """Count the attempt; return the seconds that the caller must wait, 0 if it is allowed."""
    count, period_s = settings.SWAPS.login_rate
    wait_s = _used_up(request, f"ip:{request_ip(request)}", count, period_s)
    if wait_s:
        return wait_s
    digest = name_digest(request.POST.get("username", ""))
    device = _device(request, digest)
    if device is not None:
        return _used_up(request, f"device:{device}", count, period_s)
    return _used_up(request, f"name:{digest}:{_unlocked(digest)}", count * NAME_FACTOR, period_s)


def _unlocked_key(digest: str) -> str:
    return f"unlocked:{digest}"


def _unlocked(digest: str) -> str:
    """Return the part of the counter's key that the last `unlock` set."""
    try:
        return str(cache.get(_unlocked_key(digest), ""))
    except RedisError:
        return ""


def _cookie_name() -> str:
    return "__Host-device" if settings.SWAPS.https_only else "device"


def _device(request: HttpRequest, digest: str) -> str | None:
    """Return the id of a browser in which this name has logged in; None for any other."""
    value = request.get_signed_cookie(
        _cookie_name(), default="", salt=_DEVICE_SALT, max_age=DEVICE_AGE_S
    )
    name, _, device = (value or "").partition(".")
    return device if device and secrets.compare_digest(name, digest) else None


def _remember_device(response: HttpResponse, digest: str) -> None:
    response.set_signed_cookie(
        _cookie_name(),
        f"{digest}.{secrets.token_hex(8)}",
        salt=_DEVICE_SALT,
        max_age=DEVICE_AGE_S,
        secure=settings.SWAPS.https_only,
        httponly=True,
        samesite="Strict",
    )


def _used_up(request: HttpRequest, key: str, most: int, period_s: int) -> int:
    try:
        usage = get_usage(  # type: ignore[no-untyped-call]
            request,
            group=_GROUP,
            key=lambda _group, _request: key,
            rate=(most, period_s),
            increment=True,
        )
    except RedisError as error:
        log.warning("admin_login_counted_locally", error=str(error))
        passed, wait_us, *_ = _local.take([key], [BucketRate(most / period_s, most)], 1)
        return 0 if passed else max(1, math.ceil(wait_us / 1e6))
    assert usage is not None
    return max(1, int(usage["time_left"])) if usage["should_limit"] else 0


@receiver(user_logged_in, dispatch_uid="log-admin-login")
def _on_login(sender: Any, request: HttpRequest, user: Any, **_: Any) -> None:  # noqa: ARG001
    log.info("admin_login", user=user.get_username(), ip=request_ip(request))


@receiver(user_login_failed, dispatch_uid="log-admin-login-failed")
def _on_failure(sender: Any, request: HttpRequest | None = None, **_: Any) -> None:  # noqa: ARG001
    # without the name: people type their password into that field
    log.warning("admin_login_failed", ip=request_ip(request) if request is not None else None)
