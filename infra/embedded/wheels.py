"""Locates the engines' programs in the installed wheels."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from types import ModuleType

from infra.embedded.errors import MissingWheel


def module(name: str, package: str) -> ModuleType:
    """Import the module `name` of the wheel `package`. Raises MissingWheel."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingWheel(package) from error


def require(package: str) -> None:
    """Raise MissingWheel if `package` is not installed."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingWheel(package) from error


def program(package: str, name: str) -> Path:
    """Return the path of the program `name` in the wheel `package`. Raises MissingWheel."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingWheel(package) from error
    for file in distribution.files or []:
        if file.name == name:
            path = Path(str(distribution.locate_file(file))).resolve()
            if path.is_file():
                return path
    raise MissingWheel(package)
