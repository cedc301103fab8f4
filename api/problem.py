"""Errors as RFC 9457 problem documents, each with a stable `code` that clients can match."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from django.http import HttpResponse

from aggregator.runtime.errors import SwapsError

CONTENT_TYPE: Final = "application/problem+json"


class Problem(SwapsError):
    """A client's mistake, or what this node cannot do now; `response_of` makes the answer.

    `extra` are members of the document besides the standard ones; no value may hold a secret.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra


def response_of(problem: Problem) -> HttpResponse:
    """Return the problem as an HTTP response."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        **problem.extra,
    }
    return HttpResponse(
        msgspec.json.encode(document),
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )
