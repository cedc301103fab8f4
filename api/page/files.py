"""Static files, served by the web node itself: few, small, and of this repository's own packages.

A browser asks each time whether its copy is still the newest, so that an upgrade never mixes
modules of two versions. Behind a proxy that serves files itself this is never asked.
"""

from __future__ import annotations

from contextlib import closing

from asgiref.sync import sync_to_async
from django.contrib.staticfiles.views import serve
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, StreamingHttpResponse

from api.http.compression import compress


async def static_file(request: HttpRequest, path: str) -> HttpResponseBase:
    """One file; raises Http404 where there is none of that name."""
    response = await sync_to_async(_whole)(request, path)
    response.headers["Cache-Control"] = "no-cache"
    if response.status_code == 200:
        await compress(request, response)
        response.headers["Content-Length"] = str(len(response.content))
    return response


def _whole(request: HttpRequest, path: str) -> HttpResponse:
    # "insecure" is Django's word for slower than a proxy that serves files.
    served = serve(request, path, insecure=True)
    if not isinstance(served, StreamingHttpResponse):
        assert isinstance(served, HttpResponse)
        return served
    with closing(served):
        return HttpResponse(b"".join(served), headers=dict(served.headers))
