"""Reads a table of a settings file and collects its faults, so that all are reported together.

Every fault names the place in the file, what stands there and what would be right. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, TypeVar

T = TypeVar("T")

_LONGEST_SHOWN: Final = 60


def hint(given: str, known: Collection[str]) -> str:
    """Return the end of a sentence that suggests a known word; "" if none is close."""
    near = get_close_matches(given[:_LONGEST_SHOWN].lower(), list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class TomlTable:
    """One table of a file. Getters return a default where a value is absent or faulty.

    `faults` is shared by the tables of a file. After the getters, `finish` reports the keys that no
    getter has asked for.
    """

    def __init__(self, place: str, values: Mapping[str, Any], faults: list[str]) -> None:
        self._place = place
        self._values = values
        self._faults = faults
        self._known: list[str] = []

    def has(self, key: str) -> bool:
        """Return whether the file gives this key."""
        return key in self._values

    def fault(self, key: str, what: str) -> None:
        """Report a fault of a key."""
        self._faults.append(f"{self._place}.{key}: {what}" if key else f"{self._place}: {what}")

    def get(self, key: str, default: T, parse: Callable[[Any], T]) -> T:
        """Return the value as `parse` understands it. `parse` raises ValueError with the remedy."""
        self._known.append(key)
        if key not in self._values:
            return default
        try:
            return parse(self._values[key])
        except ValueError as error:
            self.fault(key, str(error))
            return default

    def texts(self, key: str, parse: Callable[[Any], str]) -> tuple[str, ...] | None:
        """Return a list of texts, None if absent; a text alone is a list of one. Drops repeats."""
        self._known.append(key)
        if key not in self._values:
            return None
        given = self._values[key]
        found: dict[str, None] = {}
        for index, each in enumerate(given if isinstance(given, list) else [given]):
            try:
                found[parse(each)] = None
            except ValueError as error:
                self.fault(f"{key}[{index}]" if isinstance(given, list) else key, str(error))
        return tuple(found)

    def table(self, key: str) -> TomlTable:
        """Return the table under a key, empty if there is none."""
        self._known.append(key)
        given = self._values.get(key, {})
        if not isinstance(given, dict):
            self.fault(key, f"{shown(given)} is not a table: write [{self._place}.{key}]")
            given = {}
        return TomlTable(f"{self._place}.{key}", given, self._faults)

    def tables(self, key: str) -> Iterator[TomlTable]:
        """Yield the tables of the array under a key."""
        self._known.append(key)
        given = self._values.get(key, [])
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            self.fault(key, f"is not an array of tables: write [[{self._place}.{key}]]")
            return
        for index, each in enumerate(given):
            yield TomlTable(f"{self._place}.{key}[{index}]", each, self._faults)

    def finish(self) -> None:
        """Report every key that no getter has asked for."""
        for key in self._values:
            if key not in self._known:
                near = hint(key, self._known) or f"; known: {', '.join(self._known)}"
                self.fault(key, f"unknown key{near}")


def shown(value: object) -> str:
    """Return a value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def choice(*allowed: str) -> Callable[[Any], str]:
    """Return a parser of one of these words."""

    def parse(value: Any) -> str:
        if value not in allowed:
            near = hint(value, allowed) if isinstance(value, str) else ""
            raise ValueError(f"{shown(value)} is none of {', '.join(allowed)}{near}")
        return str(value)

    return parse


def whole(low: int, high: int) -> Callable[[Any], int]:
    """Return a parser of a whole number from `low` to `high`."""

    def parse(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{shown(value)} is not a whole number from {low} to {high}")
        return value

    return parse


def pattern(regex: str, what: str) -> Callable[[Any], str]:
    """Return a parser of a text of this form; `what` describes it."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(regex, value):
            raise ValueError(f"{shown(value)} is not {what}")
        return value

    return parse


def from_environment(
    table: TomlTable, key: str, environ: Mapping[str, str] | None
) -> tuple[str, ...]:
    """Return the texts, separated by commas, of the variable that a key names.

    Without `environ` the variable stays unread. Its value appears in no message.
    """
    variable = table.get(
        key, "", pattern(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")
    )
    if not variable or environ is None:
        return ()
    found = tuple(each.strip() for each in environ.get(variable, "").split(",") if each.strip())
    if not found:
        table.fault(key, f"{variable} is not set")
    return found
