"""Clients of both languages as processes, with node for JavaScript if it is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.processes import wait_until

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
Line = dict[str, Any]


def node() -> list[str]:
    """Return the command line of a node with WebSocket; without one the test is skipped."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("node is not installed")
    version = subprocess.run([path, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.match(r"v(\d+)\.(\d+)", version)
    assert found is not None, version
    release = (int(found[1]), int(found[2]))
    if release < (20, 10):
        pytest.skip(f"node {version.strip()} has no WebSocket: 20.10 or newer is needed")
    return [path] if release >= (22, 0) else [path, "--experimental-websocket"]


def command(language: str) -> list[str]:
    if language == "js":
        return [*node(), str(HERE / "client_probe.mjs")]
    return [sys.executable, str(HERE / "client_probe.py")]


class ClientProcess:
    """One client; `lines` is its output so far, each line with the monotonic `received_s`."""

    def __init__(self, language: str, url: str, token_file: Path, **settings: str) -> None:
        environment = {"URL": url, "TOKEN_FILE": str(token_file), **settings}
        environment["PYTHONPATH"] = str(ROOT / "clients" / "python")
        self.lines: list[Line] = []
        self._errors: list[str] = []
        self._process = subprocess.Popen(
            command(language),
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._threads = [
            threading.Thread(target=self._listen, daemon=True),
            threading.Thread(target=self._listen_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append({**json.loads(line), "received_s": time.monotonic()})

    def _listen_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors += self._process.stderr

    def go(self) -> None:
        """Let a client that was started with HOLD read updates."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def exit_code(self, within_s: float = 10) -> int:
        """Wait for its end and return the exit status."""
        return self._process.wait(within_s)

    def of(self, kind: str, **fields: Any) -> list[Line]:
        """Return the lines of one kind with these fields."""
        wanted = {"kind": kind, **fields}
        return [line for line in list(self.lines) if wanted.items() <= line.items()]

    def numbers(self, token: str) -> list[int]:
        """Return the `n` of every trade in the order of arrival."""
        return [n for line in self.of("trades", token=token) for n, _ in line["trades"]]

    def hashes(self, token: str) -> list[str]:
        """Return the transactions in the order of arrival."""
        return [tx for line in self.of("trades", token=token) for _, tx in line["trades"]]

    def wait(self, holds: Callable[[], Any], within_s: float, what: str) -> None:
        """Wait for a condition; an error contains the output."""
        try:
            wait_until(lambda: bool(holds()), within_s, what)
        except AssertionError as error:
            said = "\n".join(map(json.dumps, self.lines[-30:]))
            raise AssertionError(f"{error}\n{said}\n{''.join(self._errors)}") from None
