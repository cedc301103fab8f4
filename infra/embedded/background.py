"""Control of a stack from another process: `up`, `down`, `status` and `kill`.

The background process is the same program as in the foreground. The lock on stack.lock in its
directory says whether it runs, so nothing here searches process lists.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from infra.embedded import stack
from infra.embedded.errors import EmbeddedError

_POLL_S = 0.05
_DOWN_WITHIN_S = 30
_KILL_WITHIN_S = 60


def up(directory: Path, arguments: Sequence[str]) -> int:
    """Run `run ARGUMENTS` in the background; return 0 when it is ready, 1 when it has failed.

    Its output is printed here and kept in log/stack.log.
    """
    if stack.holder(directory) is not None:
        print(f"A stack runs already on {directory}.")
        return status(directory)
    log = directory / "log" / stack.STACK_LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    log.touch(mode=0o600)  # the log contains the demo's token
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.embedded", "run", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # neither Ctrl-C nor the end of the terminal reaches it
        )
    try:
        with log.open(errors="replace") as lines:
            while True:
                ended = process.poll() is not None
                ready = (directory / stack.ENV_FILE).exists()
                print(lines.read(), end="", flush=True)
                if ended:
                    return 1
                if ready and stack.holder(directory) == process.pid:
                    print("\nIt runs in the background now; `make down` stops it.")
                    # Popen warns about a child that is still running; this one runs on purpose.
                    process.returncode = 0
                    return 0
                time.sleep(_POLL_S)
    except BaseException:
        process.terminate()
        process.wait()
        raise


def down(directory: Path) -> int:
    """Stop the stack on `directory` and wait until it has ended."""
    deadline = time.monotonic() + _DOWN_WITHIN_S
    signalled = False
    while (pid := stack.holder(directory)) is not None:
        if pid and not signalled:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            signalled = True
        if time.monotonic() > deadline:
            raise EmbeddedError(f"the stack (process {pid}) did not end in {_DOWN_WITHIN_S} s")
        time.sleep(_POLL_S)
    print("stopped" if signalled else f"no stack runs on {directory}")
    return 0


def status(directory: Path) -> int:
    """Print processes and addresses; return 0 if a stack is ready, 3 otherwise."""
    if stack.holder(directory) is None:
        print(f"no stack runs on {directory}")
        return 3
    published = directory / stack.ENV_FILE
    if not published.exists():
        print(f"the stack on {directory} is starting or stopping")
        return 3
    for name, pid in _pids(directory).items():
        print(f"{name:12} pid {pid:<8} {'running' if _exists(pid) else 'ENDED'}")
    for line in published.read_text().splitlines():
        if "SECRET" not in line:
            print(line)
    return 0


def kill(directory: Path, name: str) -> int:
    """kill -9 a process of the stack and wait until the stack has started it again.

    Returns when the new process runs; the stack itself prints when that process works. Killing an
    engine ends the stack. Raises EmbeddedError where no stack or no such process runs.
    """
    owner = stack.holder(directory)
    if not owner or not (directory / stack.ENV_FILE).exists():
        raise EmbeddedError(f"no stack serves on {directory}: `make demo` or `make up` starts one")
    pids = _pids(directory)
    if name not in pids:
        raise EmbeddedError(f"{name!r} is not a process of this stack: {', '.join(pids)}")
    os.kill(pids[name], signal.SIGKILL)
    print(f"killed {name} (process {pids[name]})", flush=True)
    deadline = time.monotonic() + _KILL_WITHIN_S
    while time.monotonic() < deadline:
        if stack.holder(directory) != owner:
            print("the stack has ended: it restarts processes of the service, but no engine")
            return 0
        with contextlib.suppress(FileNotFoundError):
            if (pid := _pids(directory).get(name)) not in {None, pids[name]}:
                print(f"{name} runs again as process {pid}; the stack says when it works")
                return 0
        time.sleep(_POLL_S)
    raise EmbeddedError(f"{name} was not started again within {_KILL_WITHIN_S} s")


def _pids(directory: Path) -> dict[str, int]:
    lines = (directory / stack.PIDS_FILE).read_text().splitlines()
    return {name: int(pid) for name, pid in (line.split() for line in lines)}


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
