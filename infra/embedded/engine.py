"""The base of all engines: a process in the stack's group with a log, a port and a readiness check.

A subclass defines the command line and the check. This module must not know a particular engine.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from infra.embedded import ports
from infra.embedded.errors import EmbeddedError, EngineDied, NotReady, PortInUse, Stopped
from infra.embedded.guard import Guard

_POLL_S = 0.02
_TAIL_LINES = 15
_PORT_WITHIN_S = 1


class Process:
    """One child process with its log file.

    `wait_ready` polls a check until it returns true; an OSError counts as not ready.
    """

    def __init__(self, name: str, log: Path, guard: Guard, ready_within_s: float = 150) -> None:
        self.name = name
        self.log = log
        self._guard = guard
        self._ready_within_s = ready_within_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process id. Raises EmbeddedError if the process was never started."""
        if self._process is None:
            raise EmbeddedError(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status of a process that has ended; None if it runs or was never started."""
        return None if self._process is None else self._process.poll()

    def launch(
        self,
        command: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start the process without waiting until it is ready."""
        if self.running:
            raise EmbeddedError(f"{self.name} runs already (pid {self.pid})")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = self._guard.spawn(command, log, env, cwd)

    def wait_ready(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` returns true. Raises EngineDied, NotReady or Stopped."""
        deadline = time.monotonic() + self._ready_within_s
        while not _asked(ready):
            if self._guard.stopping.is_set():
                raise Stopped(f"stopped while {self.name} started")
            self.check()
            if time.monotonic() > deadline:
                raise NotReady(self.name, self._ready_within_s, self.log, self.tail())
            time.sleep(_POLL_S)
        self.check()

    def check(self) -> None:
        """Raise EngineDied if the process has ended."""
        if (status := self.status) is not None:
            raise EngineDied(self.name, status, self.log, self.tail())

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end and return the exit status; a negative one is the signal."""
        if self._process is None:
            raise EmbeddedError(f"{self.name} was not started")
        return self._process.wait(timeout_s)

    def terminate(self) -> None:
        """Send SIGTERM if the process runs, without waiting."""
        if self._process is not None:
            self._process.terminate()

    def stop(self, grace_s: float) -> None:
        """Send SIGTERM, and SIGKILL after `grace_s`; does nothing if the process does not run."""
        if self._process is None:
            return
        self.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines that this run of the process logged."""
        return "\n".join(self.written(16_384).splitlines()[-lines:])

    def written(self, most_bytes: int = 262_144) -> str:
        """Return what this run of the process logged, at most the last `most_bytes` of it."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - most_bytes))
            return log.read().decode(errors="replace")


def _asked(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except OSError:
        return False


class Engine(ABC):
    """One engine on one port of the loopback address, with its data in one directory.

    After `kill` or `stop`, `start` restarts it on the same port with the same data.
    """

    name: ClassVar[str]
    default_port: ClassVar[int]
    stop_within_s: ClassVar[float] = 10

    def __init__(self, directory: Path, guard: Guard, port: int = 0) -> None:
        """Use `directory`/NAME for data and `directory`/log/NAME.log; port 0: any free."""
        self.data = directory / self.name
        self.port = port or ports.free_port()
        self._guard = guard
        self._process = Process(self.name, directory / "log" / f"{self.name}.log", guard)

    @property
    def address(self) -> str:
        """host:port."""
        return f"{ports.HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """The log file, with the output of all runs."""
        return self._process.log

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the engine's process runs."""
        return self._process.running

    def start(self) -> None:
        """Start the engine and return when it answers its protocol.

        Raises PortInUse, MissingWheel, EngineDied, NotReady or Stopped.
        """
        if self.running:
            raise EmbeddedError(f"{self.name} runs already (pid {self.pid})")
        self.prepare()
        self._await_port()
        self._process.launch(self.command(), self.environment())
        try:
            self._process.wait_ready(self.ready)
        except BaseException:
            self._process.kill()
            raise

    def _await_port(self) -> None:
        # After a stack was killed, its engines may take a moment to release their ports.
        deadline = time.monotonic() + _PORT_WITHIN_S
        while not ports.is_free(self.port):
            if time.monotonic() > deadline:
                raise PortInUse(self.name, self.port)
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if the engine does not end in time."""
        self._process.stop(self.stop_within_s)

    def kill(self) -> None:
        """Send SIGKILL, which ends the engine like a crash."""
        self._process.kill()

    def check(self) -> None:
        """Raise EngineDied if the engine has ended."""
        self._process.check()

    def prepare(self) -> None:
        """Create what a start needs; cheap if it exists already."""
        self.data.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def command(self) -> list[str | Path]:
        """Return the program and its arguments."""

    def environment(self) -> dict[str, str] | None:
        """Return the environment of the program; None inherits the caller's."""
        return None

    @abstractmethod
    def ready(self) -> bool:
        """Check readiness over the engine's protocol; an OSError counts as False."""

    @abstractmethod
    def env(self) -> dict[str, str]:
        """Return the variables by which clients find the engine."""

    def connect(self) -> socket.socket:
        """Open a TCP connection to the engine, for `ready`."""
        return socket.create_connection((ports.HOST, self.port), timeout=2)
