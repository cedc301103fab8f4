"""The OpenAPI description: django-ninja's schema of the routes, completed.

Added are the schemas of the answers' structs, and the problems and headers of every route. A route
names the problem codes that it may answer with; the catalogue here turns each code into an example,
so a code is described in one place.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from ninja import NinjaAPI

from api.auth.scopes import STATS_READ
from api.http import ingest_examples
from api.problem import CONTENT_TYPE

_METHODS: Final = ("get", "post")
_CODE: Final = re.compile(r"[a-z]+(?:_[a-z]+)+")

# By code: the status, an example of the detail, and the additional members of the document.
PROBLEMS: Final[dict[str, tuple[int, str, dict[str, Any]]]] = {
    "host_not_allowed": (400, "This host name is not served here.", {}),
    "body_invalid": (400, "The body cannot be read: the gzip data is damaged.", {}),
    "token_missing": (401, "Send a token in the header Authorization: Bearer <token>.", {}),
    "token_expired": (401, "The token has expired.", {"claim": "exp"}),
    "token_revoked": (401, "The token was revoked.", {}),
    "scope_missing": (403, f"The token lacks the scope {STATS_READ}.", {"scope": STATS_READ}),
    "chain_forbidden": (
        403,
        "No line is allowed: the token may write base.",
        {
            "accepted": 0,
            "rejected": 1,
            "errors": [
                {
                    "line": 1,
                    "reason": "chain",
                    "field": "chain",
                    "message": "the token may write base",
                }
            ],
        },
    ),
    "token_not_found": (404, "No such token.", {}),
    "ingest_off": (404, "This node takes no swaps: INGEST is off.", {}),
    "request_too_large": (413, "At most 5,000 swaps in one request: send several.", {}),
    "media_type_unsupported": (
        415,
        "Content-Type: send application/x-ndjson (an event a line) or application/json, in UTF-8.",
        {},
    ),
    "encoding_unsupported": (
        415,
        "Content-Encoding: send the body as it is, or with gzip.",
        {},
    ),
    "swaps_rejected": (
        422,
        "No line is a swap; line 7: amount: -1: must be above 0 and below 1e30",
        {"accepted": 0, "rejected": 1, "errors": ingest_examples.ERRORS},
    ),
    "token_invalid": (
        422,
        "token_id: write the chain in lower case: ethereum",
        {
            "parameter": "token_id",
            "errors": [
                {
                    "parameter": "token_id",
                    "id": "Ethereum:WETH",
                    "detail": "write the chain in lower case: ethereum",
                }
            ],
        },
    ),
    "parameter_invalid": (
        422,
        "limit: Input should be less than or equal to 500",
        {
            "parameter": "limit",
            "errors": [
                {"parameter": "limit", "detail": "Input should be less than or equal to 500"}
            ],
        },
    ),
    "rate_limited": (429, "Too many requests: wait 2 s.", {"retry_after_s": 2}),
    "board_not_ready": (503, "This node does not know every token yet; see /readyz.", {}),
    "auth_unavailable": (503, "This node cannot check tokens now: it has no key.", {}),
    "ingest_unavailable": (
        503,
        "Kafka did not acknowledge every swap in time (no answer): send the whole body again, "
        "repeats are harmless.",
        {"accepted": 212},
    ),
    "ingest_busy": (
        503,
        "Too many swaps wait for Kafka on this node: send the whole body again.",
        {"accepted": 0},
    ),
    "history_unavailable": (503, "The archive does not answer.", {}),
    "history_busy": (503, "Too many concurrent queries of the archive.", {}),
    "history_too_slow": (503, "The archive did not answer in time.", {}),
}
_EVERYWHERE: Final = {
    "400": "host_not_allowed",
    "401": "token_missing, token_expired, token_revoked",
    "403": "scope_missing",
    "429": "rate_limited",
    "503": "auth_unavailable",
}

_PROBLEM_SCHEMA: Final = {
    "title": "Problem",
    "description": "RFC 9457. Match `code`, which is stable; `detail` is for people. Other members "
    "depend on the code.",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "parameter": {"type": "string", "description": "the first parameter at fault"},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["type", "title", "status", "code", "detail"],
}
_HEADERS: Final = {
    "X-RateLimit-Limit": "size of the token bucket, in units of cost",
    "X-RateLimit-Remaining": "cost left in the bucket",
    "X-RateLimit-Reset": "seconds until the bucket is full again",
}


def answers(struct: type[msgspec.Struct], example: Any, **problems: str) -> dict[str, Any]:
    """Describe an operation that answers with the struct.

    `problems` are the codes that it may answer with besides the common ones, as `x404="..."`.
    """
    schema = {"$ref": f"#/components/schemas/{struct.__name__}"}
    responses: dict[str, Any] = {
        code.removeprefix("x"): {"description": codes} for code, codes in problems.items()
    }
    content = {"application/json": {"schema": schema, "example": example}}
    responses["200"] = {"description": "OK", "content": content}
    return {"responses": responses}


def taking(described: dict[str, Any], bodies: dict[str, Any]) -> dict[str, Any]:
    """Add the bodies by media type to the description of an operation."""
    return described | {"requestBody": {"required": True, "content": bodies}}


def tagged(described: dict[str, Any]) -> dict[str, Any]:
    """Add the ETag and the 304 to the description of an operation."""
    responses = described["responses"]
    etag = {"ETag": {"schema": {"type": "string"}, "description": "send it as If-None-Match"}}
    responses["200"]["headers"] = etag
    responses["304"] = {"description": "the answer with that ETag is still current"}
    return described


def description_of(api: NinjaAPI, structs: Iterable[type[msgspec.Struct]]) -> dict[str, Any]:
    """Return the description of the API in OpenAPI 3.1, with the schemas of `structs`."""
    schema: dict[str, Any] = dict(api.get_openapi_schema())
    _, components = msgspec.json.schema_components(
        structs, ref_template="#/components/schemas/{name}"
    )
    schemas = schema["components"]["schemas"]
    schemas.update(components)
    schemas["Problem"] = _PROBLEM_SCHEMA
    schemas["SwapEvent"] = ingest_examples.EVENT_SCHEMA
    for path in schema["paths"].values():
        for method in path.keys() & set(_METHODS):
            path[method]["responses"] = _completed(path[method]["responses"])
    return schema


def _completed(described: dict[Any, Any]) -> dict[str, Any]:
    """Return the responses with those of every operation, and with examples of problems."""
    # ninja's own responses have numeric keys and less detail, so ours overwrite them
    by_kind = sorted(described.items(), key=lambda each: isinstance(each[0], str))
    responses = {str(status): copy.deepcopy(response) for status, response in by_kind}
    for status, codes in _EVERYWHERE.items():
        before = responses.get(status, {}).get("description", "")
        responses.setdefault(status, {})["description"] = f"{before}, {codes}".lstrip(", ")
    for status, response in responses.items():
        if status.startswith(("4", "5")):
            response.setdefault("content", _problem_content(int(status), response["description"]))
        if status not in {"400", "401"}:
            headers = response.setdefault("headers", {})
            for name, said in _HEADERS.items():
                headers[name] = {"schema": {"type": "integer"}, "description": said}
    retry = {"schema": {"type": "integer"}, "description": "seconds to wait"}
    responses["429"]["headers"]["Retry-After"] = retry
    return responses


def _problem_content(status: int, description: str) -> dict[str, Any]:
    codes = [code for code in _CODE.findall(description) if code in PROBLEMS]
    if not codes:
        codes = [code for code, (of, _, _) in PROBLEMS.items() if of == status]
    examples = {code: {"value": problem_example(code)} for code in codes}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {CONTENT_TYPE: {"schema": schema, "examples": examples}}


def problem_example(code: str) -> dict[str, Any]:
    """Return an example of the problem document with that code."""
    status, detail, extra = PROBLEMS[code]
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **extra,
    }
