"""The kind of a statement: just enough of ClickHouse's syntax to route it.

The engine does the real parsing; what it would ignore without notice is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from infra.embedded.clickhouse_server import refused
from infra.embedded.clickhouse_server.errors import not_supported, server_error
from infra.embedded.clickhouse_server.tokens import SqlToken, tokens, unquote

_SELECTS: Final = {"SELECT", "WITH", "FROM", "("}


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT whose rows the client sends as blocks.

    `head` is the text up to the columns, `settings` its SETTINGS clause or nothing, `table` as
    written with its database, `columns` the names or None if the statement names none.
    """

    head: str
    settings: str
    table: str
    columns: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Select:
    """A query whose rows are streamed."""

    statement: str


@dataclass(frozen=True, slots=True)
class SqlCommand:
    """Any other statement, whose answer is small; `word` is its first word."""

    statement: str
    word: str


def parse(query: str) -> Insert | Select | SqlCommand:
    """Return the kind of a query; raises ServerError for what this server cannot do."""
    parts = tokens(query)
    while parts and parts[-1].value == ";":
        parts.pop()
    if not parts:
        raise server_error(62, "Syntax error: Empty query")
    query = query[: parts[-1].end]
    first = parts[0].value
    refused.check(parts)
    if first == "INSERT":
        return _insert(query, parts)
    if first in _SELECTS and not _inserts(parts):
        return Select(query)
    return SqlCommand(query, first)


def _inserts(parts: list[SqlToken]) -> bool:
    """Return whether it is WITH ... INSERT INTO ... SELECT."""
    words = [part.value for part in parts]
    return any(pair == ("INSERT", "INTO") for pair in pairwise(words))


def _insert(query: str, parts: list[SqlToken]) -> Insert | SqlCommand:
    """Parse INSERT [INTO] [TABLE] [db.]table [(columns)] [SETTINGS ...] {VALUES|FORMAT|SELECT}."""
    begin = next(n for n in range(1, len(parts) + 1) if not _is(parts, n, {"INTO", "TABLE"}))
    if _is(parts, begin, {"FUNCTION"}):
        if any(part.value == "SELECT" for part in parts):
            return SqlCommand(query, "INSERT")
        raise not_supported("INSERT INTO FUNCTION with rows of the client")
    place = _after_name(parts, begin)
    table = query[parts[begin].begin : parts[place - 1].end]
    columns = None
    if _is(parts, place, {"("}):
        if _is(parts, place + 1, {"SELECT", "WITH", "("}):
            return SqlCommand(query, "INSERT")
        close = _closing(parts, place)
        columns = _names(query, parts[place + 1 : close])
        place = close + 1
    head, end = query[: parts[place - 1].end], len(parts)
    for number in range(place, len(parts)):
        word = parts[number].value
        if word in {"SELECT", "WITH", "WATCH"}:
            return SqlCommand(query, "INSERT")
        if word in {"VALUES", "FORMAT"}:
            if number + (2 if word == "FORMAT" else 1) < len(parts):
                raise not_supported("rows in the text of an INSERT", "give them to execute()")
            end = number
            break
    settings = query[parts[place].begin : parts[end - 1].end] if place < end else ""
    return Insert(head, settings, table, columns)


def _is(parts: list[SqlToken], place: int, values: set[str]) -> bool:
    return place < len(parts) and parts[place].value in values


def _after_name(parts: list[SqlToken], begin: int) -> int:
    """Return the index after [db.]table."""
    place = begin
    while place < len(parts) and parts[place].kind in {"word", "name"}:
        place += 1
        if not _is(parts, place, {"."}):
            return place
        place += 1
    raise server_error(62, "Syntax error: an INSERT names a table")


def _closing(parts: list[SqlToken], opening: int) -> int:
    depth = 0
    for place in range(opening, len(parts)):
        depth += (parts[place].value == "(") - (parts[place].value == ")")
        if depth == 0:
            return place
    raise server_error(62, "Syntax error: a parenthesis is not closed")


def _names(query: str, parts: list[SqlToken]) -> tuple[str, ...]:
    names, name = [], ""
    for part in parts:
        if part.value == ",":
            names.append(name)
            name = ""
        elif part.kind == "word" or part.value == ".":
            name += query[part.begin : part.end]
        elif part.kind == "name":
            name += unquote(part.value)
        else:
            raise not_supported(f"{part.value!r} in the columns of an INSERT", "name each column")
    return (*names, name)
