"""Does a module take its command line? It is run as its program, until it has read its arguments.

Standard input: a JSON list of [module, argument, ...]; standard output: a list of null or what is
wrong. A process of its own, because modules set up logging and the like before they read arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import runpy
import sys
from typing import Any


class _Read(BaseException):
    """The arguments were taken."""


_parse_args = argparse.ArgumentParser.parse_args


def _and_end(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
    _parse_args(self, *args, **kwargs)
    raise _Read


def fault(module: str, arguments: list[str]) -> str | None:
    """What argparse says of the arguments; None where it takes them, or shows its help."""
    sys.argv = [module, *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except _Read:
        return None
    except SystemExit as end:
        return said.getvalue() if end.code else None
    return f"{module} reads no arguments"


if __name__ == "__main__":
    argparse.ArgumentParser.parse_args = _and_end  # type: ignore[assignment,method-assign]
    sys.path.insert(0, ".")
    asked = json.load(sys.stdin)
    json.dump([fault(module, arguments) for module, *arguments in asked], sys.stdout)
