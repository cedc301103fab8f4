"""Extracts the commands of the documents as a reader would type them into a shell.

A fenced block of the language `sh` contains only commands. Inline code is a command if it starts
with a program of `PROGRAMS` and has arguments. Knows Markdown, not what a command does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
# Every fence must have a language, so that no command is missed.
LANGUAGES: Final = {"sh", "python", "js", "json", "toml", "text", "mermaid"}
PROGRAMS: Final = (
    r"(?:\.venv/bin/)?(?:python3?|pytest|daphne|pip)|make|(?:\./)?manage\.py|git|node|npm|go|promtool|"
    r"docker|kubectl|rpk|curl|apt-get|df|sh|bash|infra/[\w/]+\.sh|\.ci/\w+|SELECT|BACKUP|RESTORE|FLUSHALL"
)

_FENCE: Final = re.compile(r"^( *)```([^`\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SPAN: Final = re.compile(r"`([^`]+)`")
_COMMAND: Final = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:{PROGRAMS}) .+", re.DOTALL)
_COMMENT: Final = re.compile(r"\s+#\s.*$")


class Command(NamedTuple):
    """One command and the document that contains it."""

    text: str
    place: str


def documents() -> list[Path]:
    """Return the Markdown files whose commands exist now.

    The changelog describes the past, and the design also describes parts that do not exist yet.
    """
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("clients/**/*.md")]
    found += ROOT.glob("infra/**/*.md")
    return sorted(path for path in found if path.name not in {"CHANGELOG.md", "design.md"})


def fences(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (language, content) of each fenced block."""
    for found in _FENCE.finditer(path.read_text()):
        yield found[2], found[3]


def commands() -> list[Command]:
    """Return each command once, at the first place that names it."""
    first: dict[str, Command] = {}
    for path in documents():
        place = str(path.relative_to(ROOT))
        for text in (*_fenced(path), *_inline(path)):
            first.setdefault(text, Command(text, place))
    return list(first.values())


def _fenced(path: Path) -> Iterator[str]:
    for language, content in fences(path):
        if language == "sh":
            for line in re.sub(r"\\\n\s*", "", content).splitlines():
                if text := _COMMENT.sub("", line).strip():
                    yield text


def _inline(path: Path) -> Iterator[str]:
    for found in _SPAN.finditer(_FENCE.sub("", path.read_text())):
        text = " ".join(found[1].split())
        if _COMMAND.fullmatch(text):
            yield text
