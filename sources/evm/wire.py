"""JSON-RPC 2.0 as chain nodes speak it (ethereum.github.io/execution-apis): requests, answers, and
what an error means for the caller. Pure.
"""

from __future__ import annotations

import re
from math import isnan
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from sources.evm.ports import CallRefused, RateLimited, Unreachable
from sources.evm.types import Block

NULL: Final = b"null"
RATE_PAUSE_S: Final = 1.0
"""The pause after a refusal for too many calls that does not say how long to wait."""
_LONGEST_PAUSE_S: Final = 60.0
_LONGEST_MESSAGE: Final = 300

_RATE: Final = re.compile(
    r"rate.?limit|request rate|too many requests|per second|compute units", re.I
)
_RATE_CODES: Final = {429, -32016}
_CONTRACT: Final = re.compile(
    r"revert|out ?of ?gas|invalid ?opcode|opcode ?not ?found|bad ?instruction|invalid ?jump"
    r"|stack ?(?:under|over)flow|stack ?limit|call ?depth|write ?protection|gas uint64 overflow"
    r"|return ?data ?out ?of ?bounds|out ?of ?offset|access ?violation"
    r"|vm exception|vm execution error",
    re.I,
)
_CONTRACT_CODES: Final = {3, -32015}


class RpcError(CallRefused):
    """The error object of an answer."""

    def __init__(self, node: str, code: int, message: str) -> None:
        super().__init__(f"{node}: {message[:_LONGEST_MESSAGE]} ({code})")
        self.code = code
        self.message = message

    @property
    def is_of_the_contract(self) -> bool:
        """Whether `eth_call` failed in the contract, so that any node would answer the same."""
        return self.code in _CONTRACT_CODES or _CONTRACT.search(self.message) is not None


class _ErrorObject(msgspec.Struct):
    code: int
    message: str = ""


class Reply(msgspec.Struct):
    """An answer, or a notification where it has no `id`."""

    id: int | None = None
    method: str | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: _ErrorObject | None = None


class _Sender(msgspec.Struct):
    hash: str
    sender: str = msgspec.field(name="from")


class Header(msgspec.Struct, rename="camel"):
    """A block of `eth_getBlockByNumber` without its transactions."""

    number: str
    hash: str
    parent_hash: str
    timestamp: str
    logs_bloom: str = "0x"

    def block(self) -> Block:
        """Return the block. The bloom filter may hold any topic unless it is empty."""
        return Block(
            int(self.number, 16),
            self.hash,
            self.parent_hash,
            int(self.timestamp, 16),
            may_have=self.logs_bloom.strip("0x") != "",
        )


class FullBlock(Header):
    """A block with its transactions, of which only the senders are read."""

    transactions: list[_Sender] = []

    def block(self) -> Block:
        """Return the block with its senders."""
        senders = {each.hash: each.sender for each in self.transactions}
        return msgspec.structs.replace(super().block(), senders=senders)


_reply: Final = msgspec.json.Decoder(Reply)
_encoder: Final = msgspec.json.Encoder()


def request(number: int, method: str, params: list[Any]) -> bytes:
    """Return the bytes of a request."""
    return _encoder.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def reply(node: str, data: bytes) -> Reply:
    """Return an answer. Raises Unreachable where it is not JSON-RPC."""
    try:
        return _reply.decode(data)
    except msgspec.MsgspecError as error:
        raise Unreachable(f"{node}: answered what is not JSON-RPC: {error}") from error


def result(node: str, answer: Reply) -> msgspec.Raw:
    """Return the result of an answer. Raises RateLimited or RpcError where it is an error."""
    if answer.error is None:
        return answer.result
    code, message = answer.error.code, answer.error.message
    if code in _RATE_CODES or _RATE.search(message):
        raise RateLimited(f"{node}: {message[:_LONGEST_MESSAGE]} ({code})", RATE_PAUSE_S)
    raise RpcError(node, code, message)


def decoded(node: str, method: str, raw: msgspec.Raw, kind: Any) -> Any:
    """Return a result as a value of the type `kind`. Raises Unreachable where it is not one."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise Unreachable(f"{node}: answered {method} with something else: {error}") from error


def pause_of(retry_after: str | None) -> float:
    """Return the seconds of a Retry-After header; its form with a date is taken as missing."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return RATE_PAUSE_S
    return RATE_PAUSE_S if isnan(seconds) else min(_LONGEST_PAUSE_S, max(0.0, seconds))


def endpoint_name(url: str, number: int) -> str:
    """Return a name for messages. Only the host: keys stand in the path, the query or the user."""
    return f"rpc {number} ({urlsplit(url).hostname})"
