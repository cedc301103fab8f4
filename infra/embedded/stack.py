"""The engines together: started in parallel in one directory and stopped in reverse order.

The directory holds each engine's data, log/*.log, stack.env (addresses), stack.pids, and
stack.lock, which a running stack keeps locked. Must not know the service that uses the engines.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final, Self, TypeVar

from infra.embedded import disk
from infra.embedded.clickhouse import ClickHouse
from infra.embedded.engine import Engine
from infra.embedded.errors import DirectoryInUse, EmbeddedError, Stopped
from infra.embedded.guard import Guard
from infra.embedded.kafka import Kafka
from infra.embedded.nats import Nats
from infra.embedded.redis import Redis
from infra.embedded.s3 import S3

# In the order in which they are listed; they stop in reverse order.
ENGINES: Final[tuple[type[Engine], ...]] = (S3, Nats, Redis, Kafka, ClickHouse)
MIN_FREE_BYTES: Final = 1_000 * disk.MEGABYTE

ENV_FILE: Final = "stack.env"
LOCK_FILE: Final = "stack.lock"
PIDS_FILE: Final = "stack.pids"
STACK_LOG: Final = "stack.log"
"""In log/: the output of a stack that runs in the background."""

E = TypeVar("E", bound=Engine)
Report = Callable[[str], None]


def _silent(_: str) -> None:
    pass


class Stack:
    """The engines of `only` (default: all) with their data in `directory`.

    `ports` fixes the ports of engines by name; the others get free ports, known before the start.
    As a context manager it starts, publishes stack.env, and always stops at the end of the block.
    """

    def __init__(
        self,
        directory: Path,
        *,
        only: tuple[type[Engine], ...] = ENGINES,
        ports: Mapping[str, int] | None = None,
        report: Report = _silent,
        min_free_bytes: int = MIN_FREE_BYTES,
    ) -> None:
        self.directory = directory.absolute()
        self.guard = Guard()
        self._report = report
        self._min_free_bytes = min_free_bytes
        self._lock: IO[str] | None = None
        fixed = ports or {}
        self.engines: list[Engine] = []
        for kind in only:
            engine = kind(self.directory, self.guard, fixed.get(kind.name, 0))
            if isinstance(engine, Kafka):
                engine.report = report
            self.engines.append(engine)
        if ClickHouse in only and S3 in only:
            self.clickhouse.cold = self.s3

    @property
    def kafka(self) -> Kafka:
        """The broker."""
        return self._engine(Kafka)

    @property
    def redis(self) -> Redis:
        """The Redis."""
        return self._engine(Redis)

    @property
    def nats(self) -> Nats:
        """The NATS server."""
        return self._engine(Nats)

    @property
    def s3(self) -> S3:
        """The object store."""
        return self._engine(S3)

    @property
    def clickhouse(self) -> ClickHouse:
        """The archive's database."""
        return self._engine(ClickHouse)

    def _engine(self, kind: type[E]) -> E:
        for engine in self.engines:
            if isinstance(engine, kind):
                return engine
        raise EmbeddedError(f"this stack has no {kind.name}")

    def env(self) -> dict[str, str]:
        """Return the variables by which the service finds the engines."""
        return {name: value for engine in self.engines for name, value in engine.env().items()}

    def start(self) -> None:
        """Start all engines in parallel and return when each answers. After a fault none runs.

        Raises EmbeddedError with the text of every fault.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            disk.ensure_room(self.directory, self._min_free_bytes)
            self._lock = _take(self.directory)
            self.guard.open(keep=[self._lock.fileno()])
            # The threads only wait; the engines are children of this process and outlive them.
            with ThreadPoolExecutor(len(self.engines), "engine") as pool:
                try:
                    started = [pool.submit(self._start, engine) for engine in self.engines]
                    faults = [fault for task in started if (fault := task.result()) is not None]
                except BaseException:
                    self.guard.close()
                    raise
            _raise_all(faults)
        except BaseException:
            self.stop()
            raise

    def _start(self, engine: Engine) -> EmbeddedError | None:
        begun = time.monotonic()
        try:
            engine.start()
        except EmbeddedError as error:
            return error
        self._report(f"{engine.name} at {engine.address}, {time.monotonic() - begun:.1f} s")
        return None

    def publish(
        self, addresses: Mapping[str, str] | None = None, pids: Mapping[str, int] | None = None
    ) -> None:
        """Write stack.env and stack.pids; `addresses` and `pids` add those of the service.

        Only the owner may read stack.env, because it holds keys. It is written last, so that its
        existence means ready.
        """
        running = {engine.name: engine.pid for engine in self.engines} | dict(pids or {})
        found_at = self.env() | dict(addresses or {})
        _write(self.directory / PIDS_FILE, "".join(f"{n} {pid}\n" for n, pid in running.items()))
        _write(self.directory / ENV_FILE, "".join(f"{n}={at}\n" for n, at in found_at.items()))

    def check(self) -> None:
        """Raise EmbeddedError if an engine or the watchdog has ended."""
        for engine in self.engines:
            engine.check()
        if not self.guard.alive:
            raise EmbeddedError("the watchdog of the embedded stack was killed")

    def stop(self) -> None:
        """Stop the engines in reverse order; does nothing if they do not run."""
        try:
            if self._lock is not None:  # otherwise the files belong to another stack
                for name in (ENV_FILE, PIDS_FILE):
                    (self.directory / name).unlink(missing_ok=True)
            for engine in reversed(self.engines):
                engine.stop()
        finally:
            self.guard.close()
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def __enter__(self) -> Self:
        self.start()
        self.publish()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def holder(directory: Path) -> int | None:
    """Return the process id of the stack that runs on `directory`, or None.

    0 means that its process has ended and its engines are being killed.
    """
    try:
        lock = (directory / LOCK_FILE).open()
    except FileNotFoundError:
        return None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(lock.read() or 0)
        return None


def _take(directory: Path) -> IO[str]:
    """Lock the directory; the watchdog shares the lock, which so lasts until the engines end."""
    lock = (directory / LOCK_FILE).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.read().strip()
        lock.close()
        raise DirectoryInUse(directory, f" (process {pid})" if pid else "") from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _write(path: Path, text: str) -> None:
    """Write a file atomically, readable by its owner only."""
    part = path.with_name(path.name + ".part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    part.touch(mode=0o600)
    part.write_text(text)
    part.rename(path)


def _raise_all(faults: list[EmbeddedError]) -> None:
    # One engine's fault stops the others; their Stopped errors carry no information.
    causes = [fault for fault in faults if not isinstance(fault, Stopped)] or faults
    if len(causes) == 1:
        raise causes[0]
    if causes:
        raise EmbeddedError("\n".join(str(cause) for cause in causes))
