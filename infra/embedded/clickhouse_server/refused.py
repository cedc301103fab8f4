"""Refuses what a ClickHouse server does and this one cannot, before the engine ignores it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from infra.embedded.clickhouse_server.errors import not_supported, server_error
from infra.embedded.clickhouse_server.tokens import SqlToken

# the values that have no effect; the engine ignores any other value without notice
_HARMLESS: Final = {
    "async_insert": {"0", "false"},
    "extremes": {"0", "false"},
    "send_logs_level": {"none"},
}
# used by this server: it marks the queries of a client
_OWN_SETTING: Final = "log_comment"


def check(parts: list[SqlToken]) -> None:
    """Raise ServerError for a statement that is not supported; `parts` has at least one token."""
    first = parts[0].value
    pairs = set(pairwise(part.value for part in parts))
    if any(part.value == ";" for part in parts):
        raise server_error(62, "Syntax error: Multi-statements are not allowed")
    if ("INTO", "OUTFILE") in pairs or ("FROM", "INFILE") in pairs:
        raise not_supported("files of the client", "write and read them on the client's side")
    if ("WITH", "TOTALS") in pairs:
        raise not_supported("WITH TOTALS", "use GROUPING SETS or a second query")
    if first == "KILL":
        raise not_supported("KILL", "cancel the query on its connection, or close that")
    if first != "INSERT" and _ends_with_format(parts):
        raise not_supported("FORMAT", "leave it out: the native protocol has one format")
    for name, value in _settings(parts):
        check_setting(name, value)


def check_setting(name: str, value: str) -> None:
    """Raise ServerError for a setting that would have no effect."""
    if name == _OWN_SETTING:
        raise not_supported(f"the setting {name}", "the server marks the query's client with it")
    if name in _HARMLESS and value.lower() not in _HARMLESS[name]:
        raise not_supported(f"the setting {name} = {value}")


def _settings(parts: list[SqlToken]) -> Iterator[tuple[str, str]]:
    """Yield the names and unquoted values in SET and SETTINGS."""
    within = parts[0].value == "SET"
    for before, name, sign, value in zip(parts, parts[1:], parts[2:], parts[3:], strict=False):
        within = within or before.value == "SETTINGS"
        if within and before.value in {"SET", "SETTINGS", ","} and sign.value == "=":
            yield name.value.strip('`"').lower(), value.value.strip("'")


def _ends_with_format(parts: list[SqlToken]) -> bool:
    """Return whether the end is ... FORMAT name [SETTINGS ...], outside of parentheses."""
    depth = 0
    for place, part in enumerate(parts[:-1]):
        depth += (part.value == "(") - (part.value == ")")
        if part.value == "FORMAT" and depth == 0 and parts[place + 1].kind == "word":
            rest = parts[place + 2 :]
            if not rest or rest[0].value == "SETTINGS":
                return True
    return False
