"""A helper process of the game that takes orders as lines of JSON and answers in the same form."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.processes import wait_until

ROOT = Path(__file__).parents[2]
Line = dict[str, Any]


class Helper:
    """Runs `python -m MODULE ARGUMENTS`; `lines` is its output. It ends when its input ends."""

    def __init__(self, log: Path, module: str, *arguments: object) -> None:
        self.lines: list[Line] = []
        self._name, self._log = module, log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._thread = threading.Thread(target=self._listen, name=module, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(json.loads(line))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def order(self, do: str, **what: Any) -> None:
        """Send it an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
        self._process.stdin.flush()

    def wait(self, holds: Callable[[Line], bool], within_s: float, what: str) -> Line:
        """Wait for the first line for which `holds` is true."""
        found: list[Line] = []

        def look() -> bool:
            assert self._process.poll() is None or self.lines, self._log.read_text()[-2_000:]
            found[:] = [line for line in list(self.lines) if holds(line)][:1]
            return bool(found)

        wait_until(look, within_s, f"{self._name}: {what}")
        return found[0]

    def check(self) -> None:
        """Raise AssertionError if it has ended."""
        status = self._process.poll()
        assert status is None, f"{self._name} ended with {status}: {self._log.read_text()[-2_000:]}"

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
