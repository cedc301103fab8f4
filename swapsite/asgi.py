"""The ASGI application that Daphne, or any ASGI server, serves.

Importing connects nothing. The board's feed starts in the server's event loop: at lifespan startup
where the server has one, else with the first scope (Daphne has no lifespan).
"""

from __future__ import annotations

import os
import sys

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from django.conf import settings
from django.core.asgi import get_asgi_application

from api.services import services

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "swapsite.settings")

if not settings.SWAPS.django_secret_key and not settings.DEBUG:
    sys.stderr.write("settings:\n  - DJANGO_SECRET_KEY: required to serve when DEBUG is 0\n")
    raise SystemExit(2)

_django = get_asgi_application()


async def application(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Start what lives in the event loop, then hand the scope on."""
    services().feed.start()
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    else:
        await _django(dict(scope), receive, send)  # type: ignore[arg-type]


async def _lifespan(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await services().feed.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
