"""The tokens of ClickHouse's SQL: what lies outside of strings, quoted names and comments."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/)
  | (?P<text>'(?:[^'\\]|\\.|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
  | (?P<name>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
  | (?P<word>\w+)
  | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class SqlToken:
    """A word (upper case), a quoted name, a text or a sign, with its range in the query."""

    kind: str
    value: str
    begin: int
    end: int


def tokens(query: str) -> list[SqlToken]:
    """Return the tokens of a query without white space and comments."""
    found = []
    for match in _TOKEN.finditer(query):
        kind = match.lastgroup if match.lastgroup != "tag" else "text"
        if kind is None or kind == "space":
            continue
        value = match.group().upper() if kind == "word" else match.group()
        found.append(SqlToken(kind, value, match.start(), match.end()))
    return found


def unquote(quoted: str) -> str:
    """Return the name within `...` or "..."."""
    quote, inner = quoted[0], quoted[1:-1]
    return re.sub(r"\\(.)", r"\1", inner.replace(quote * 2, quote))


def literal(value: str) -> str:
    """Quote a text for ClickHouse's SQL."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
