"""The repository's prose, names and references, as the house rules need them.

Knows how to find the texts that people read (docstrings, comments, messages, documents), the
classes of the product, and what a document or a docstring refers to. Judges nothing: the rules are
in `tests/unit/test_house.py`.
"""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
PRODUCT = ("aggregator", "api", "bench", "console", "infra", "sources", "swapsite")
ROOMS = (*PRODUCT, "clients", "docs", "tests", "data", ".github")
_SKIPPED = {"__pycache__", "node_modules", "vendor", "var", "build", "dist"}

_LOGGERS = {"log", "_log", "logger", "_logger"}
_PRINTED = {"print", "write", "Counter", "Gauge", "Histogram", "Summary", "setting"}
_EXPLAINED = {"help", "description"}
_JS = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)"""
    r"""|(?P<comment>//[^\n]*|/\*.*?\*/)""",
    re.S,
)
_LUA = re.compile(r"(?P<string>\"[^\"\n]*\"|'[^'\n]*')|(?P<comment>--[^\n]*)")
_HASH = re.compile(r"""(?P<string>"[^"\n]*"|'[^'\n]*')|(?P<comment>(?:^|(?<=\s))\#[^\n]*)""", re.M)
_COMMENTS = {
    ".js": _JS,
    ".mjs": _JS,
    ".ts": _JS,
    ".lua": _LUA,
    ".sql": _LUA,
    ".css": _JS,
    ".sh": _HASH,
    ".yml": _HASH,
    ".yaml": _HASH,
    ".conf": _HASH,
    ".toml": _HASH,
    ".in": _HASH,
    "Makefile": _HASH,
    "Dockerfile": _HASH,
}
_WHOLE = (".html", ".xml")
_WHOLE_YAML = ("docs/asyncapi.yaml", "infra/prometheus/rules")


class Text(NamedTuple):
    """A piece of prose; `line` is that of its first line, from 1."""

    path: str
    line: int
    text: str


@cache
def files() -> dict[str, Path]:
    """Every file of the repository that may hold or be a reference, by its path from the root."""
    found = [each for each in REPOSITORY.iterdir() if each.is_file()]
    for room in ROOMS:
        for folder, folders, names in os.walk(REPOSITORY / room):
            folders[:] = [each for each in folders if each not in _SKIPPED]
            found += [Path(folder) / name for name in names]
    return {each.relative_to(REPOSITORY).as_posix(): each for each in sorted(found)}


@cache
def content(path: str) -> str:
    return files()[path].read_text(encoding="utf-8")


def of_kind(*endings: str) -> list[str]:
    return [path for path in files() if path.endswith(endings)]


def texts(path: str) -> Iterator[Text]:
    """The prose of one file. A document is prose as a whole, without its code."""
    if path.endswith(".md"):
        yield Text(path, 1, without_code(content(path)))
    elif path.endswith(_WHOLE) or path.startswith(_WHOLE_YAML):
        yield Text(path, 1, content(path))
    elif path.endswith(".py"):
        yield from python_texts(path, content(path))
    elif path.startswith("infra/grafana/dashboards/"):
        for found in re.finditer(r'"(?:title|description)": "(?:\\.|[^"\\])*"', content(path)):
            yield Text(path, _line(content(path), found.start()), found.group())
    elif (grammar := _COMMENTS.get(Path(path).suffix or Path(path).name)) is not None:
        yield from _joined(
            path,
            [
                (_line(content(path), found.start()), found["comment"])
                for found in grammar.finditer(content(path))
                if found["comment"]
            ],
        )


def python_texts(path: str, source: str) -> Iterator[Text]:
    """Docstrings (those of attributes too), comments and messages of a module."""
    for node in ast.walk(ast.parse(source)):
        for found in _docstring_or_message(node):
            yield Text(path, found.lineno, found.value)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [(each.start[0], each.string) for each in tokens if each.type == tokenize.COMMENT]
    yield from _joined(path, comments)


def docstrings(path: str) -> Iterator[Text]:
    for node in ast.walk(ast.parse(content(path))):
        if isinstance(node, ast.Expr):
            for found in _strings(node.value) if isinstance(node.value, ast.Constant) else ():
                yield Text(path, found.lineno, found.value)


class _String(NamedTuple):
    lineno: int
    value: str


def _docstring_or_message(node: ast.AST) -> Iterator[_String]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield from _strings(node.value)
    elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        for each in node.exc.args:
            yield from _strings(each)
    elif isinstance(node, ast.Assign) and any(
        isinstance(each, ast.Name) and each.id in _EXPLAINED for each in node.targets
    ):
        yield from _strings(node.value)
    elif isinstance(node, ast.Call):
        if _called(node.func) in _PRINTED or _is_logger(node.func):
            for each in (*node.args, *(keyword.value for keyword in node.keywords)):
                yield from _strings(each)
        for keyword in node.keywords:
            if keyword.arg in _EXPLAINED:
                yield from _strings(keyword.value)


def _strings(node: ast.AST) -> Iterator[_String]:
    """The strings that an expression is made of, parts of an f-string included."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield _String(each.lineno, each.value)


def _called(func: ast.expr) -> str:
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")


def _is_logger(func: ast.expr) -> bool:
    return isinstance(func, ast.Attribute) and _called(func.value) in _LOGGERS


def _joined(path: str, comments: list[tuple[int, str]]) -> Iterator[Text]:
    """Comments of lines that follow one another as one text: a phrase may cross the line's end."""
    first, lines = 0, list[str]()
    for line, text in comments:
        if lines and line == first + len(lines):
            lines.append(text)
            continue
        if lines:
            yield Text(path, first, "\n".join(lines))
        first, lines = line, text.splitlines()
    if lines:
        yield Text(path, first, "\n".join(lines))


def classes() -> Iterator[tuple[str, str, int]]:
    """(name, path, line) of every public class of the product."""
    for path in of_kind(".py"):
        if path.startswith(tuple(f"{room}/" for room in PRODUCT)) and "class " in content(path):
            for node in ast.walk(ast.parse(content(path))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    yield node.name, path, node.lineno


def without_code(text: str) -> str:
    """A document without fences, inline code and link targets; lines keep their numbers."""
    text = re.sub(r"^( *)```.*?^\1```$", _blank, text, flags=re.M | re.S)
    return re.sub(r"(?<=\])\([^)\s]*\)|`[^`\n]+`", "…", text)


def _blank(found: re.Match[str]) -> str:
    return "\n" * found.group().count("\n")


@cache
def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    seen = dict[str, int]()
    found = set[str]()
    text = document.read_text(encoding="utf-8")
    for heading in re.findall(r"^#{1,6} +(.+?) *$", text, flags=re.M):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
