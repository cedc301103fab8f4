"""What all tests share: the wall that keeps unit tests off the network, and `side_by_side`."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ("tests.support.side_by_side",)

_UNIT = Path(__file__).parent / "unit"
_INET = {socket.AF_INET, socket.AF_INET6}

# A line a request, or a line a client that reconnects, buries what a failing test has to say.
for _name in ("httpx", "swapclient"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the engines, so that `-m 'not engines'` runs without them."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker("engines")


@pytest.fixture(autouse=True)
def _no_network_in_unit_tests(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit test that connects or binds an internet socket fails, whatever it catches."""
    if not request.path.is_relative_to(_UNIT):
        return

    def refuse(name: str) -> None:
        allowed = getattr(socket.socket, name)

        def checked(self: socket.socket, *args: Any) -> Any:
            if self.family in _INET:
                # not an Exception: code that handles network errors must not swallow it
                pytest.fail(f"a unit test called socket.{name}{args}")
            return allowed(self, *args)

        monkeypatch.setattr(socket.socket, name, checked)

    for name in ("connect", "connect_ex", "bind", "sendto"):
        refuse(name)
