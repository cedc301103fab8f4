"""Fixtures of the embedded stack's unit tests."""

from __future__ import annotations

import importlib.abc
import importlib.metadata
import sys
from collections.abc import Callable

import pytest


class _Hidden(importlib.abc.MetaPathFinder):
    """A finder that hides one installed package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".", maxsplit=1)[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def hidden_modules(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes importing a module, or a part of it, fail."""

    def hide(package: str) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [_Hidden(package), *sys.meta_path])

    return hide


@pytest.fixture
def hidden_wheel(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes a distribution look not installed."""
    real = importlib.metadata.distribution

    def hide(package: str) -> None:
        def find(name: str) -> importlib.metadata.Distribution:
            if name == package:
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(importlib.metadata, "distribution", find)

    return hide
