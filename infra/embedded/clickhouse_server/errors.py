"""Exceptions with ClickHouse's codes and names, also those that the engine raises as text."""

from __future__ import annotations

import re
from typing import Final

_ENGINE_TEXT = re.compile(
    r"^Code: (?P<code>\d+)\. (?P<text>.*?)(?: \(version [\d.]+[^)]*\))?$", re.DOTALL
)


class ServerError(Exception):
    """What a client receives as an EXCEPTION packet; `code` is ClickHouse's error code."""

    def __init__(self, code: int, message: str) -> None:
        """`message` starts with DB::Exception and ends with the code's name."""
        super().__init__(message)
        self.code = code
        self.message = message


class ProtocolError(Exception):
    """The bytes are not ClickHouse's native protocol: the connection cannot continue."""


QUERY_WAS_CANCELLED: Final = 394
# https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
_NAMES: Final = {
    16: "NO_SUCH_COLUMN_IN_TABLE",
    48: "NOT_IMPLEMENTED",
    62: "SYNTAX_ERROR",
    99: "UNKNOWN_PACKET_FROM_CLIENT",
    115: "UNKNOWN_SETTING",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    216: "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING",
    QUERY_WAS_CANCELLED: "QUERY_WAS_CANCELLED",
    516: "AUTHENTICATION_FAILED",
    1001: "STD_EXCEPTION",
}


def server_error(code: int, text: str) -> ServerError:
    """Return an error of this server, in ClickHouse's form."""
    return ServerError(code, f"DB::Exception: {text}. ({_NAMES[code]})")


def not_supported(what: str, instead: str = "") -> ServerError:
    """Return the error for what ClickHouse supports and this server does not."""
    hint = f"; {instead}" if instead else ""
    return server_error(48, f"the embedded ClickHouse server does not support {what}{hint}")


def from_engine(error: RuntimeError) -> ServerError:
    """Convert the engine's "Code: 60. DB::Exception: ... (UNKNOWN_TABLE)"."""
    text = str(error)
    found = _ENGINE_TEXT.match(text)
    if found is None:
        return server_error(1001, text)
    return ServerError(int(found["code"]), found["text"])
