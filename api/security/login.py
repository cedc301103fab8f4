"""The door of the admin: attempts to log in are limited by address and by name, and logged.

Counted in Redis for all web nodes together (django-ratelimit); while Redis is away each node
counts alone. A name may be tried five times as often as an address: a botnet is slowed down, and a
single host cannot lock an operator out for long.
"""

from __future__ import annotations

import math
import time
from typing import Any, Final

import structlog
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django_ratelimit.core import get_usage
from redis.exceptions import RedisError

from aggregator import metrics
from api.security.client_ip import request_ip
from api.security.ratelimit import LocalBuckets, Rate

NAME_FACTOR: Final = 5
LONGEST_NAME: Final = 150
_GROUP: Final = "admin-login"

log = structlog.get_logger(__name__)
_local = LocalBuckets(time.monotonic)


@never_cache
@csrf_protect
def login(request: HttpRequest) -> HttpResponse:
    """The admin's login page; 429 after too many attempts, whatever the password."""
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
    return response


def _wait_s(request: HttpRequest) -> int:
    """How long the caller must wait, 0 where the attempt is let through; counts the attempt."""
    count, period_s = settings.SWAPS.login_rate
    name = request.POST.get("username", "").strip().casefold()[:LONGEST_NAME]
    keys = {f"ip:{request_ip(request)}": count, f"name:{name}": count * NAME_FACTOR}
    waits = [_used_up(request, key, most, period_s) for key, most in keys.items()]
    return max(waits)


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
        passed, wait_us, *_ = _local.take([key], [Rate(most / period_s, most)], 1)
        return 0 if passed else max(1, math.ceil(wait_us / 1e6))
    assert usage is not None
    return max(1, int(usage["time_left"])) if usage["should_limit"] else 0


@receiver(user_logged_in, dispatch_uid="log-admin-login")
def _on_login(sender: Any, request: HttpRequest, user: Any, **_: Any) -> None:  # noqa: ARG001
    log.info("admin_login", user=user.get_username(), ip=request_ip(request))


@receiver(user_login_failed, dispatch_uid="log-admin-login-failed")
def _on_failure(sender: Any, request: HttpRequest | None = None, **_: Any) -> None:  # noqa: ARG001
    # without the name: people type their password there
    log.warning("admin_login_failed", ip=request_ip(request) if request is not None else None)
