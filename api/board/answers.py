"""HTTP answers in JSON, with an ETag so that a client need not receive the same answer twice."""

from __future__ import annotations

import hashlib

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response

_encode = msgspec.json.Encoder().encode


def json(value: object) -> HttpResponse:
    """Return the value in JSON, as an answer."""
    return HttpResponse(_encode(value), content_type="application/json")


def tagged(request: HttpRequest, value: object, etag: str | None = None) -> HttpResponse:
    """Return the value in JSON with the ETag (`"..."`), or 304 if the client has that tag.

    The default tag is a hash of the content, so equal answers of two nodes have the same tag.
    """
    content = _encode(value)
    return answered(request, content, tag_of(content) if etag is None else etag)


def encoded(value: object) -> bytes:
    """Return the value in JSON."""
    return _encode(value)


def tag_of(content: bytes) -> str:
    """Return the ETag of an answer, a hash of its content."""
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def answered(request: HttpRequest, content: bytes, etag: str) -> HttpResponse:
    """Return an answer that is encoded already, or 304 if the client has its ETag."""
    response = HttpResponse(content, content_type="application/json")
    response.headers["ETag"] = etag
    conditional = get_conditional_response(request, etag=etag, response=response)
    assert isinstance(conditional, HttpResponse)
    return conditional
