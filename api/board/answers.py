"""How a value becomes an answer: JSON, with an ETag by which a client need not get it twice."""

from __future__ import annotations

import hashlib

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response

_encode = msgspec.json.Encoder().encode


def json(value: object) -> HttpResponse:
    """The value in JSON."""
    return HttpResponse(_encode(value), content_type="application/json")


def tagged(request: HttpRequest, value: object, etag: str | None = None) -> HttpResponse:
    """The value in JSON under the tag (`"..."`), or 304 where the client has it by that tag.

    Without a tag it is a hash of the answer, so equal answers of two nodes have one tag.
    """
    content = _encode(value)
    return answered(request, content, tag_of(content) if etag is None else etag)


def encoded(value: object) -> bytes:
    """The value in JSON."""
    return _encode(value)


def tag_of(content: bytes) -> str:
    """The tag of an answer: of its bytes alone."""
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def answered(request: HttpRequest, content: bytes, etag: str) -> HttpResponse:
    """An answer in JSON that is made already, or 304 where the client has it by that tag."""
    response = HttpResponse(content, content_type="application/json")
    response.headers["ETag"] = etag
    conditional = get_conditional_response(request, etag=etag, response=response)
    assert isinstance(conditional, HttpResponse)
    return conditional
