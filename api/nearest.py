"""Suggestions for misspelt words. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

_LONGEST: Final = 64


def nearest(given: str, known: Sequence[str]) -> str | None:
    """Return the known word closest to the given one; None if none is close."""
    found = difflib.get_close_matches(given[:_LONGEST].lower(), known, 1)
    return found[0] if found else None


def hint(given: str, known: Sequence[str]) -> str:
    """Return the end of a sentence that suggests a known word; "" if none is close."""
    meant = nearest(given, known)
    return "" if meant is None else f"; did you mean {meant}?"
