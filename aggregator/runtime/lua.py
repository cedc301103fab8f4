"""Lua scripts for Redis, read from files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple


class LuaScript(NamedTuple):
    """The text of a script, and the SHA-1 by which EVALSHA names it."""

    text: str
    sha: str


def load_lua(path: Path) -> LuaScript:
    """Read the script file `path`."""
    text = path.read_text(encoding="utf-8")
    return LuaScript(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
