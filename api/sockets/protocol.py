"""The messages of the WebSocket as docs/websocket.md specifies them: read and written.

Pure: bytes and structs. `api.sockets.session` says what a message does; nothing here knows
sockets, tokens or the board.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, get_args

import msgspec

from api.nearest import hint

Channel = Literal["token_stats", "trades", "candles", "overview", "status"]
Interval = Literal["1m", "5m", "15m", "1h", "4h", "1d"]
MOST_REQ_ID: Final = 64
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
RequestId = Annotated[str, msgspec.Meta(max_length=MOST_REQ_ID)] | _Int64 | None
"""It comes back with every ack, one a token, so its length is bounded."""

INTERVALS: Final[dict[str, int]] = {
    "1m": 60_000,
    "5m": 300_000,
    "15m": 900_000,
    "1h": 3_600_000,
    "4h": 14_400_000,
    "1d": 86_400_000,
}
FLUSH_MS: Final = 100
LONGEST_INTERVAL_MS: Final = 10_000
SUBPROTOCOL: Final = "bearer"


class Close(IntEnum):
    """Why this node closes a socket. RFC 6455 leaves 4000-4999 to applications."""

    RESTART = 1012
    UNAUTHENTICATED = 4001
    EXPIRED = 4003
    ORIGIN = 4403
    TOO_SLOW = 4008
    LIMIT = 4029


class Resume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client already has of a token: (epoch, seq) of absolute values, or trades up to `n`.

    `offset` is that of trade `n`: with it the node sees whether its trade `n` is the same one.
    """

    epoch: int | None = None
    seq: int | None = None
    n: int | None = None
    offset: int | None = None


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a subscription is of; the fields from `window` on are those of GET /api/overview."""

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
        """The parameters of the overview that were given."""
        return {name: value for name in OVERVIEW_FIELDS if (value := getattr(self, name))}


OVERVIEW_FIELDS: Final = (
    *("window", "sort", "order", "chain", "min_volume_usd", "min_trades", "q", "limit"),
)


class Subscribe(Selection, frozen=True, kw_only=True, tag_field="method", tag="subscribe"):
    """`resume` is one `Resume` for all the tokens, or one by token id."""

    interval_ms: int = FLUSH_MS
    resume: dict[str, Any] | None = None


class Unsubscribe(Selection, frozen=True, kw_only=True, tag_field="method", tag="unsubscribe"):
    """Ends what a `Subscribe` with the same selection began."""


class ListSubscriptions(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="method",
    tag="list_subscriptions",
):
    """Asks what this socket is subscribed to."""

    req_id: RequestId = None


class Ping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="method", tag="ping"):
    """Asks for a `pong`."""

    req_id: RequestId = None


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="method", tag="auth"):
    """Shows a token: the first one, or a newer one of the same subject."""

    token: str
    req_id: RequestId = None


Request = Subscribe | Unsubscribe | ListSubscriptions | Ping | Auth


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a request: a stable code, and a sentence that names the field."""

    code: str
    message: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One element of a frame; fields that do not apply are absent.

    `data` of a token that is not known is null, which is not the same as absent. `token` is the
    canonical id; `asked` stands in an ack where the request had another spelling.
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
    """A request that cannot be understood; `req_id` is its own where one could be read."""

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
    """The request in a frame; raises RequestRefused that names the field at fault."""
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
    """msgspec's message, with what would be accepted and what was probably meant."""
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
    """The message in JSON."""
    return _encode(message)


def frame(messages: list[bytes]) -> bytes:
    """One frame: a JSON array of messages that are already written."""
    return b"[" + b",".join(messages) + b"]"
