"""Checks whether modules accept command lines: runs each until it has parsed its arguments.

Standard input is a JSON list of [module, argument, ...]; standard output is a list of null or the
error. Runs as a separate process, because modules configure logging before they parse arguments.
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
    """The module accepted its arguments."""


_parse_args = argparse.ArgumentParser.parse_args


def _and_end(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
    _parse_args(self, *args, **kwargs)
    raise _Read


def fault(module: str, arguments: list[str]) -> str | None:
    """Return argparse's error for the arguments; None if it accepts them or shows its help."""
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
