"""A group of child processes that cannot outlive the process that started them.

Every child joins the process group of a watchdog before it executes its program, so no child can
escape the group. Must not know engines.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from infra.embedded.errors import EmbeddedError

_WATCHDOG = Path(__file__).with_name("watchdog.py")


class Guard:
    """Starts processes; `close`, or any end of this process, kills those that still run.

    `close` sets `stopping`, and so may any code that wants to abort the work in progress.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._watchdog: subprocess.Popen[bytes] | None = None

    def open(self, keep: Sequence[int] = ()) -> None:
        """Start the watchdog; it keeps the file descriptors `keep` open until the group is dead."""
        self.stopping.clear()
        self._watchdog = subprocess.Popen(
            # -I -S skips site-packages and the environment, so it starts in milliseconds.
            [sys.executable, "-I", "-S", str(_WATCHDOG)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
            pass_fds=tuple(keep),
        )

    @property
    def alive(self) -> bool:
        """Whether the watchdog runs; without it no process may start."""
        return self._watchdog is not None and self._watchdog.poll() is None

    def spawn(
        self,
        command: Sequence[str | Path],
        log: IO[bytes],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `command` in the group with its output in `log` and no standard input.

        Raises EmbeddedError if the group is closed or its watchdog was killed.
        """
        if self._watchdog is None:
            raise EmbeddedError("the embedded stack is stopped: nothing can be started in it")
        try:
            return subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                process_group=self._watchdog.pid,
            )
        except (PermissionError, ProcessLookupError) as error:
            if self.alive:
                raise
            raise EmbeddedError(
                "the watchdog of the embedded stack was killed; stop the stack and start it again"
            ) from error

    def close(self) -> None:
        """Kill the processes that still run and wait for the watchdog's end. Idempotent."""
        self.stopping.set()
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is None:
            return
        assert watchdog.stdin is not None
        killed_by_others = watchdog.poll() is not None
        watchdog.stdin.close()
        # A watchdog that was killed cannot kill its group.
        if killed_by_others:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(watchdog.pid, signal.SIGKILL)
        watchdog.wait()
