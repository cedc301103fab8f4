"""The dashboard's page and, in a demo, the token with which it logs in.

The page contains no numbers: its modules (`static/page`) request them as any client does, over the
WebSocket and REST, with a token. This node hands out a token only if DEMO_TOKEN_FILE is set: it
reads the file that the demo's issuer writes, and never has the issuer's key.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.loader import render_to_string
from django.views.decorators.http import require_safe

from aggregator.contracts.ids import TokenIdInvalid, canonical_token_id
from aggregator.contracts.intervals import INTERVALS_MS
from api.http.docs import anybody
from api.page.files import ASK_EACH_TIME, File
from api.problem import Problem, response_of
from api.services import services


@require_safe
async def page(request: HttpRequest, token_id: str = "") -> HttpResponse:
    """Serve the page, which is the same for the list and each token: its modules read the address.

    Redirects another spelling of a token id to the canonical one, which the updates carry.
    """
    canonical = _canonical(token_id)
    if canonical != token_id:
        query = request.META.get("QUERY_STRING", "")
        address = f"/tokens/{quote(canonical, safe=':')}" + (f"?{query}" if query else "")
        return HttpResponseRedirect(address)
    config = services().config
    render = _rendered.__wrapped__ if settings.DEBUG else _rendered
    rendered = render(config.demo_token_file is not None, tuple(name for name, _ in config.windows))
    return await rendered.answer(request, ASK_EACH_TIME)


@lru_cache(maxsize=4)
def _rendered(demo: bool, windows: tuple[str, ...]) -> File:
    """Render the page once, because a template takes some milliseconds.

    The page must therefore contain nothing of a request, not even a nonce; its scripts and styles
    are files.
    """
    context = {"demo": demo, "windows": windows, "intervals": list(INTERVALS_MS)}
    html = render_to_string("page/page.html", context)
    return File.of(html.encode(), "text/html; charset=utf-8")


def _canonical(token_id: str) -> str:
    try:
        return canonical_token_id(token_id)
    except TokenIdInvalid:
        return token_id  # the page shows the error that REST returns


async def demo_token(request: HttpRequest) -> HttpResponse:
    """Return the demo's token as `{"token": …}`; 404 if this is not a demo.

    Counts against the rate limit of the address, like every request without a token.
    """
    try:
        await anybody(request)
        file = services().config.demo_token_file
        if file is None:
            raise Problem(HTTPStatus.NOT_FOUND, "not_a_demo", "Tokens are not given out here.")
        token = await asyncio.to_thread(_read, file)
    except Problem as problem:
        return response_of(problem)
    return JsonResponse({"token": token}, headers={"Cache-Control": "no-store"})


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "demo_token_missing",
            "The demo's issuer has written no token yet; see DEMO_TOKEN_FILE.",
            headers={"Retry-After": "2"},
        ) from None
