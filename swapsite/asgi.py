"""The ASGI application that Daphne, or any ASGI server, serves.

Importing this module opens no connection. The board's feed starts in the event loop of the server:
at lifespan startup if the server supports it, else with the first scope (Daphne has no lifespan).
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Final

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from django.conf import settings
from django.core.asgi import get_asgi_application

from api.services import services

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "swapsite.settings")

if not settings.SWAPS.django_secret_key and not settings.DEBUG:
    sys.stderr.write("settings:\n  - DJANGO_SECRET_KEY: required to serve when DEBUG is 0\n")
    raise SystemExit(2)

SHUTDOWN_WITHIN_S: Final = 3.0

_django = get_asgi_application()

# After the application, because these modules read Django's settings when they are imported.
from api.http.handler import DirectHandler  # noqa: E402
from api.sockets.shutdown import on_sigterm  # noqa: E402
from api.websocket import consumer  # noqa: E402
from swapsite.daphne_limits import install  # noqa: E402

_direct = DirectHandler()
# A full collection visits every row of the board, and every request waits for it: 70 ms with
# 20,000 tokens. Reference counts free the rows; only a few cycles are left, mostly young ones.
gc.set_threshold(100_000, 20, 100)
install(settings.SWAPS.body_limit, settings.SWAPS.request_within_ms / 1000)


async def application(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Start the services of the event loop, then pass the scope to its handler."""
    services().start()
    on_sigterm(lambda: services().hub.shutdown(SHUTDOWN_WITHIN_S))
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif DirectHandler.takes(scope):
        await _direct(scope, receive, send)
    elif scope["type"] == "websocket":
        await consumer(scope, receive, send)
    else:
        await _django(dict(scope), receive, send)  # type: ignore[arg-type]


async def _lifespan(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await services().stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
