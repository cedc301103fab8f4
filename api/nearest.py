"""What somebody probably meant who wrote a word that there is not. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

_LONGEST: Final = 64


def nearest(given: str, known: Sequence[str]) -> str | None:
    """The known word that is most like the given one, None where none is."""
    found = difflib.get_close_matches(given[:_LONGEST].lower(), known, 1)
    return found[0] if found else None


def hint(given: str, known: Sequence[str]) -> str:
    """The end of a sentence that names it; empty where no word is like it."""
    meant = nearest(given, known)
    return "" if meant is None else f"; did you mean {meant}?"
