"""The door of the HTTP API: a bearer token (RFC 6750) with the scope that a route asks for."""

from __future__ import annotations

from typing import Final

from django.http import HttpRequest
from ninja.security.base import AuthBase

from api.problem import Problem
from api.security.jwt import Claims, TokenRefused
from api.services import services

STATS_READ: Final = "stats:read"
OPS_READ: Final = "ops:read"
_CHALLENGE: Final = 'Bearer realm="swaps"'


class Bearer(AuthBase):
    """Lets in a request whose token is good and holds `scope`; None asks for no scope."""

    openapi_type = "http"
    openapi_scheme = "bearer"
    openapi_bearerFormat = "JWT"

    def __init__(self, scope: str | None) -> None:
        super().__init__()
        self.is_async = True
        self._scope = scope

    async def __call__(self, request: HttpRequest) -> Claims:
        """The caller's claims; raises Problem where it may not pass."""
        claims = _claims(request)
        if self._scope is not None and self._scope not in claims.scopes:
            raise Problem(
                403,
                "scope_missing",
                f"The token lacks the scope {self._scope}.",
                headers={
                    "WWW-Authenticate": (
                        f'{_CHALLENGE}, error="insufficient_scope", scope="{self._scope}"'
                    )
                },
                scope=self._scope,
            )
        return claims


def _claims(request: HttpRequest) -> Claims:
    parts = services()
    if parts.verifier is None:
        raise Problem(
            503,
            "auth_unavailable",
            "This node has no key to verify tokens with.",
            headers={"Retry-After": "5"},
        )
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Problem(
            401,
            "token_missing",
            "Send a token in the header Authorization: Bearer <token>.",
            headers={"WWW-Authenticate": _CHALLENGE},
        )
    try:
        return parts.verifier.verify(token.strip(), parts.now_s())
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
