"""No process outlives its owner, whether it is closed, crashes or is killed with -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded.errors import EmbeddedError
from infra.embedded.guard import Guard
from tests.support.processes import alive, wait_gone

# A child that ignores every signal but SIGKILL and has forked.
STUBBORN = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.fork()
print(os.getpid(), flush=True)
time.sleep(60)
"""
OWNER = f"""
import os, pathlib, signal, sys
from infra.embedded.guard import Guard
guard = Guard()
guard.open()
log = pathlib.Path(sys.argv[1]).open("wb")
child = guard.spawn([sys.executable, "-c", {STUBBORN!r}], log)
other = guard.spawn(["sleep", "60"], log)
print(guard._watchdog.pid, child.pid, other.pid, flush=True)
if sys.argv[2] == "crash":
    raise RuntimeError("a bug")
if sys.argv[2] == "exit":
    os._exit(3)
signal.pause()
"""


@pytest.fixture
def guard() -> Iterator[Guard]:
    with_watchdog = Guard()
    with_watchdog.open()
    yield with_watchdog
    with_watchdog.close()


def spawn(guard: Guard, log: Path, *command: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return guard.spawn(command, output)


def test_close_ends_what_ignores_every_signal(guard: Guard, tmp_path: Path) -> None:
    child = spawn(guard, tmp_path / "log", sys.executable, "-c", STUBBORN)
    assert alive(child.pid)
    guard.close()
    assert child.wait(5) == -signal.SIGKILL
    guard.close()


@pytest.mark.parametrize("end", ["kill", "crash", "exit"])
def test_the_end_of_the_owner_ends_all(end: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(log), end],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 3
        if end == "kill":
            owner.kill()
        owner.wait(5)
    grandchildren = [int(pid) for pid in log.read_text().split()]
    wait_gone([*pids, *grandchildren])


def test_without_its_watchdog_nothing_is_started(guard: Guard, tmp_path: Path) -> None:
    child = spawn(guard, tmp_path / "log", "sleep", "60")
    watchdog = guard._watchdog
    assert watchdog is not None
    watchdog.kill()
    watchdog.wait()
    assert not guard.alive
    os.kill(child.pid, signal.SIGKILL)
    child.wait(5)
    with pytest.raises(EmbeddedError, match="watchdog of the embedded stack was killed"):
        spawn(guard, tmp_path / "log", "sleep", "60")


def test_close_ends_the_group_of_a_watchdog_that_was_killed(guard: Guard, tmp_path: Path) -> None:
    child = spawn(guard, tmp_path / "log", "sleep", "60")
    assert guard._watchdog is not None
    guard._watchdog.kill()
    guard._watchdog.wait()
    guard.close()
    assert child.wait(5) == -signal.SIGKILL


def test_a_closed_guard_starts_nothing(guard: Guard, tmp_path: Path) -> None:
    guard.close()
    with pytest.raises(EmbeddedError, match="is stopped"):
        spawn(guard, tmp_path / "log", "sleep", "60")
