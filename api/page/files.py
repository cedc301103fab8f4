"""Serves static files from memory; they are few, small, and part of this repository.

Every address contains the release's digest (`/static/<digest>/page/main.js`), so a browser may
cache a file for a year and never mixes modules of two versions: modules import each other by
relative addresses, which keep the digest. An address without this release's digest serves the
current file, which the browser must revalidate each time.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from typing import Final

from django.conf import settings
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import StaticFilesStorage
from django.http import HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response
from django.views.decorators.http import require_safe

from api.http.compression import WORTH_BYTES, takes_gzip

_DIGEST_BYTES: Final = 6
ASK_EACH_TIME: Final = "no-cache"
_IMMUTABLE: Final = "public, max-age=31536000, immutable"
_TYPES: Final = {".js": "text/javascript", ".mjs": "text/javascript"}


@dataclass(slots=True)
class File:
    """One file or rendered page; its gzip is made on the first request and kept."""

    content: bytes
    content_type: str
    etag: str
    _packed: bytes | None = None

    @classmethod
    def of(cls, content: bytes, content_type: str) -> File:
        """Create a file from its bytes."""
        tag = hashlib.blake2b(content, digest_size=12).hexdigest()
        return cls(content, content_type, f'"{tag}"')

    async def packed(self) -> bytes:
        """Return the file's gzip."""
        if self._packed is None:
            self._packed = await asyncio.to_thread(gzip.compress, self.content, 9, mtime=0)
        return self._packed

    async def answer(self, request: HttpRequest, caching: str) -> HttpResponse:
        """Respond with the file and that Cache-Control, or with 304 if the client has it."""
        headers = {"Cache-Control": caching, "ETag": self.etag}
        content = self.content
        if len(content) >= WORTH_BYTES:
            headers["Vary"] = "Accept-Encoding"
            if takes_gzip(request.META.get("HTTP_ACCEPT_ENCODING", "")):
                content = await self.packed()
                headers |= {"Content-Encoding": "gzip", "ETag": f"W/{self.etag}"}
        response = HttpResponse(content, content_type=self.content_type, headers=headers)
        conditional = get_conditional_response(request, etag=headers["ETag"], response=response)
        assert isinstance(conditional, HttpResponse)
        return conditional


@dataclass(frozen=True, slots=True)
class PageRelease:
    """All static files by name, and the digest over all of them."""

    digest: str
    files: dict[str, File]


def release() -> PageRelease:
    """Return the files of this process; with DEBUG they are read again at each call."""
    return _read() if settings.DEBUG else _kept()


@cache
def _kept() -> PageRelease:
    return _read()


def _read() -> PageRelease:
    files: dict[str, File] = {}
    whole = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for finder in finders.get_finders():
        for path, storage in finder.list([]):
            # A finder lists paths without the prefix of STATICFILES_DIRS; addresses have it.
            prefix = getattr(storage, "prefix", None)
            name = f"{prefix}/{path}" if prefix else path
            if name in files:  # the first finder wins, as in Django
                continue
            with storage.open(path) as opened:
                content = opened.read()
            files[name] = File.of(content, _type_of(name))
    for name in sorted(files):
        whole.update(f"{name} {files[name].etag}\n".encode())
    return PageRelease(whole.hexdigest(), files)


def _type_of(name: str) -> str:
    extension = name[name.rfind(".") :]
    found = _TYPES.get(extension) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"{found}; charset=utf-8" if found.startswith("text/") else found


class ReleaseStorage(StaticFilesStorage):
    """The storage of `{% static %}`: addresses contain the release's digest."""

    def url(self, name: str | None) -> str:
        """Return the address of a file."""
        return super().url(f"{release().digest}/{name}")


@require_safe
async def static_file(request: HttpRequest, path: str) -> HttpResponse:
    """Serve one file, or 404."""
    here = release()
    digest, _, rest = path.partition("/")
    file, immutable = here.files.get(path), False
    if file is None:
        # Accept the digest of another release: a page of an older node may still request the file.
        file, immutable = here.files.get(rest), digest == here.digest
    if file is None:
        return HttpResponse(status=404)
    return await file.answer(request, _IMMUTABLE if immutable else ASK_EACH_TIME)
