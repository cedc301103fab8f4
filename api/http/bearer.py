"""Authentication of the HTTP API: a bearer token (RFC 6750), its scope, and the rate limit."""

from __future__ import annotations

from typing import Final, NoReturn

from django.http import HttpRequest
from ninja.security.base import AuthBase

from aggregator.runtime import metrics
from api.auth.client_ip import request_ip
from api.auth.jwt import Claims, TokenRefused
from api.auth.ratelimit import COST_REFUSED, RateDecision
from api.problem import Problem
from api.services import Services, services

# The key in a request's META of its `RateDecision`, for the headers of the answer.
DECISION: Final = "swaps.rate_limit"
# The key in a request's META of the verified token's subject, for the access log.
SUBJECT: Final = "swaps.subject"
_CHALLENGE: Final = 'Bearer realm="swaps"'


class Bearer(AuthBase):
    """Accepts requests with a valid token that has `scope` (None: any), and charges `cost`.

    A refused request is charged to its address too, so guessing tokens is limited.
    """

    openapi_type = "http"
    openapi_scheme = "bearer"
    openapi_bearerFormat = "JWT"

    def __init__(self, scope: str | None, cost: int = 1) -> None:
        super().__init__()
        self.is_async = True
        self._scope = scope
        self._cost = cost

    async def __call__(self, request: HttpRequest) -> Claims:
        """Return the caller's claims; raises Problem if the request is refused."""
        parts = services()
        try:
            claims = await _claims(parts, request)
        except Problem as problem:
            metrics.AUTH_REFUSED.labels("http", problem.code).inc()
            await charge(parts, request, None, COST_REFUSED)
            raise
        request.META[SUBJECT] = claims.subject
        await charge(parts, request, claims.subject, self._cost)
        if self._scope is not None and self._scope not in claims.scopes:
            metrics.AUTH_REFUSED.labels("http", "scope_missing").inc()
            _refuse_scope(self._scope)
        return claims


async def charge(parts: Services, request: HttpRequest, subject: str | None, cost: int) -> None:
    """Take the cost from the buckets of address and subject; raises Problem 429 if they are empty.

    The rate-limit headers of every answer, a 429 included, report what is left.
    """
    decision = await parts.limiter.take(subject, request_ip(request), cost)
    request.META[DECISION] = decision
    if not decision.passed:
        metrics.LIMITS_HIT.labels("http_rate").inc()
        raise rate_problem(decision)


def rate_problem(decision: RateDecision) -> Problem:
    """Return the 429 for a decision; the middleware adds the rate-limit headers."""
    return Problem(
        429,
        "rate_limited",
        f"Too many requests: wait {decision.retry_after_s} s.",
        retry_after_s=decision.retry_after_s,
    )


def _refuse_scope(scope: str) -> NoReturn:
    raise Problem(
        403,
        "scope_missing",
        f"The token lacks the scope {scope}.",
        headers={"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope", scope="{scope}"'},
        scope=scope,
    )


async def _claims(parts: Services, request: HttpRequest) -> Claims:
    if parts.verifier is None:
        await parts.settled()
    if parts.verifier is None:
        raise Problem(
            503,
            "auth_unavailable",
            "This node cannot check tokens now: it has no key, or no list of the revoked ones.",
            headers={"Retry-After": "5"},
        )
    scheme, _, token = request.META.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Problem(
            401,
            "token_missing",
            "Send a token in the header Authorization: Bearer <token>.",
            headers={"WWW-Authenticate": _CHALLENGE},
        )
    try:
        return await parts.verifier.authenticate(token.strip(), parts.now_s())
    except TokenRefused as refused:
        extra = {"claim": refused.claim} if refused.claim else {}
        raise Problem(
            401,
            refused.code,
            refused.detail,
            headers={
                "WWW-Authenticate": (
                    f'{_CHALLENGE}, error="invalid_token", error_description="{refused.detail}"'
                )
            },
            **extra,
        ) from None
