"""Parse and serialise the messages of the WebSocket, as docs/websocket.md specifies them.

Pure: bytes and structs. `api.sockets.session` acts on the messages; nothing here knows sockets,
tokens or the board.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, get_args

import msgspec

from aggregator.contracts.intervals import FLUSH_MS, Interval
from api.nearest import hint

Channel = Literal["token_stats", "trades", "candles", "overview", "status"]
MOST_REQ_ID: Final = 64
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
RequestId = Annotated[str, msgspec.Meta(max_length=MOST_REQ_ID)] | _Int64 | None
"""Every ack repeats it, one ack per token, so its length is bounded."""

LONGEST_INTERVAL_MS: Final = 10_000
SUBPROTOCOL: Final = "bearer"


class Close(IntEnum):
    """The close codes of this service. RFC 6455 reserves 4000-4999 for applications."""

    RESTART = 1012
    UNAUTHENTICATED = 4001
    EXPIRED = 4003
    ORIGIN = 4403
    TOO_SLOW = 4008
    LIMIT = 4029


class Resume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """State what a client already has of a token: values as of (epoch, seq), or trades up to `n`.

    `offset` is the offset of trade `n`. By it the node sees whether its own trade `n` is the same.
    """

    epoch: int | None = None
    seq: int | None = None
    n: int | None = None
    offset: int | None = None


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Select topics of a channel.

    The fields from `window` on are the parameters of GET /api/overview.
    """

    channel: Channel
    tokens: list[str] = []
    interval: Interval | None = None
    window: Any = None
    sort: Any = None
    order: Any = None
    chain: Any = None
    min_volume_usd: Any = None
    min_trades: Any = None
    q: Any = None
    limit: Any = None
    req_id: RequestId = None

    def overview(self) -> dict[str, Any]:
        """Return the overview parameters that the client gave."""
        return {name: value for name in OVERVIEW_FIELDS if (value := getattr(self, name))}


OVERVIEW_FIELDS: Final = (
    *("window", "sort", "order", "chain", "min_volume_usd", "min_trades", "q", "limit"),
)


class Subscribe(Selection, frozen=True, kw_only=True, tag_field="method", tag="subscribe"):
    """Start subscriptions. `resume` is one `Resume` for all tokens, or one per token id."""

    interval_ms: int = FLUSH_MS
    resume: dict[str, Any] | None = None


class Unsubscribe(Selection, frozen=True, kw_only=True, tag_field="method", tag="unsubscribe"):
    """End the subscriptions that a `Subscribe` with the same selection started."""


class ListSubscriptions(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="method",
    tag="list_subscriptions",
):
    """Ask for the subscriptions of this socket."""

    req_id: RequestId = None


class Ping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="method", tag="ping"):
    """Ask for a `pong`."""

    req_id: RequestId = None


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="method", tag="auth"):
    """Present a JWT: the first one, or a newer one of the same subject."""

    token: str
    req_id: RequestId = None


Request = Subscribe | Unsubscribe | ListSubscriptions | Ping | Auth


class Fault(msgspec.Struct, frozen=True):
    """Describe what is wrong with a request: a stable code, and a sentence that names the field."""

    code: str
    message: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One element of a frame; fields that do not apply are absent.

    `data` of an unknown token is null, which differs from absent. `token` is the canonical id; an
    ack has `asked` if the request spelled the id differently.
    """

    channel: str | None = None
    type: str
    token: str | None = None
    asked: str | None = None
    interval: str | None = None
    params: dict[str, Any] | None = None
    method: str | None = None
    req_id: RequestId = None
    epoch: int | None = None
    seq: int | None = None
    as_of: int | None = None
    watermark: int | None = None
    resumed: bool = False
    code: str | None = None
    message: str | None = None
    error: Fault | None = None
    data: Any = msgspec.UNSET


class RequestRefused(Exception):
    """Raised for an invalid request; `req_id` is the request's own if it could be read."""

    def __init__(self, code: str, message: str, req_id: RequestId = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.req_id = req_id


class _AnyRequest(msgspec.Struct):
    req_id: RequestId = None
    method: str = ""


_decode = msgspec.json.Decoder(Request).decode
_decode_any = msgspec.json.Decoder(_AnyRequest).decode
_encode = msgspec.json.Encoder().encode


def read(text: str | bytes) -> Request:
    """Return the request in a frame; raise RequestRefused, which names the field at fault."""
    try:
        request: Request = _decode(text)
    except msgspec.ValidationError as error:
        any_request = _any_request(text)
        said = _said(str(error), any_request.method)
        raise RequestRefused("request_invalid", said, any_request.req_id) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise RequestRefused("request_malformed", "The message is not a JSON object.") from None
    return request


_CHOICES: Final[dict[str, list[str]]] = {
    "method": [str(each.__struct_config__.tag) for each in get_args(Request)],
    "channel": list(get_args(Channel)),
    "interval": list(get_args(Interval)),
}
_FIELDS: Final[dict[str, list[str]]] = {
    str(each.__struct_config__.tag): list(each.__struct_fields__) for each in get_args(Request)
}
_WRONG_CHOICE: Final = re.compile(r"Invalid (?:enum )?value '(.*)' - at `\$\.(\w+)`", re.DOTALL)
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def _said(message: str, method: str) -> str:
    """Return msgspec's message with the accepted values and the one that was probably meant."""
    wrong = _WRONG_CHOICE.fullmatch(message)
    if wrong is not None and wrong[2] in _CHOICES:
        choices = _CHOICES[wrong[2]]
        said = f"{wrong[2]}: '{wrong[1][:64]}' is none of {', '.join(choices)}"
        return said + hint(wrong[1], choices)
    unknown = _UNKNOWN_FIELD.match(message)
    if unknown is not None:
        known = _FIELDS.get(method, [])
        return f"{unknown[1][:64]}: there is no such field{hint(unknown[1], known)}"
    return message


def _any_request(text: str | bytes) -> _AnyRequest:
    try:
        return _decode_any(text)
    except msgspec.MsgspecError:
        return _AnyRequest()


def write(message: Message) -> bytes:
    """Return the message in JSON."""
    return _encode(message)


def frame(messages: list[bytes]) -> bytes:
    """Return one frame: a JSON array of messages that are already serialised."""
    return b"[" + b",".join(messages) + b"]"
