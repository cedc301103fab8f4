"""The page of the API's description: Swagger UI, served from this host.

The files come with django-ninja (Swagger UI, Apache License 2.0), so the page loads nothing from
elsewhere and its policy allows scripts of this host only. Page and description need no token,
because a browser sends none when it opens a page; they contain nothing that is not in the
repository. Requests are charged to the address.
"""

from __future__ import annotations

from typing import Final, Literal

from django.http import HttpRequest, HttpResponse
from django.templatetags.static import static

from api.auth.client_ip import request_ip
from api.http.bearer import DECISION, rate_problem
from api.http.headers import PAGE_POLICY
from api.services import services

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Swap aggregator: API</title>
<link rel="stylesheet" href="{style}">
<link rel="icon" href="data:,">
</head>
<body>
<div id="api" data-url="openapi.json"></div>
<noscript>This page needs JavaScript; the description itself is <a href="openapi.json">here</a>.
</noscript>
<script src="{bundle}"></script>
<script src="{start}"></script>
</body>
</html>
"""


async def anybody(request: HttpRequest) -> Literal[True]:
    """Accept every caller; raises Problem 429 if the bucket of its address is empty."""
    decision = await services().limiter.take(None, request_ip(request))
    request.META[DECISION] = decision
    if not decision.passed:
        raise rate_problem(decision)
    return True


async def docs(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - a view's signature
    """Return the page."""
    page = _PAGE.format(
        style=static("ninja/swagger-ui.css"),
        bundle=static("ninja/swagger-ui-bundle.js"),
        start=static("api/docs.js"),
    )
    return HttpResponse(
        page,
        headers={
            "Content-Security-Policy": PAGE_POLICY.format(nonce=""),
            "Referrer-Policy": "same-origin",
        },
    )
