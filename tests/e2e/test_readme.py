"""The README's commands, in a clean checkout with nothing of ours installed: a stranger's start."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import alive, wait_gone

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# What names the machine's package mirrors and certificates belongs to the machine, not to us.
KEPT = re.compile(
    r"PATH$|LANG$|PIP_|SSL_|REQUESTS_CA_BUNDLE$|HTTPS?_PROXY$|NO_PROXY$", re.IGNORECASE
)
WITHIN_S = 300


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The tracked files as they are now, as a clone of them would be."""
    target = tmp_path / "swaps"
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout.split(b"\0")
    for name in filter(None, files):
        source, copy = ROOT / os.fsdecode(name), target / os.fsdecode(name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
        copy.chmod(source.stat().st_mode)
    return target


@pytest.fixture
def demo(checkout: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    assert "make demo" in README
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if KEPT.match(name)}
    environment |= {"HOME": str(home)}
    for port in ("KAFKA", "REDIS", "NATS", "S3", "CLICKHOUSE", "WEB", "METRICS"):
        environment[f"{port}_PORT"] = "0"
    process = subprocess.Popen(
        ["make", "demo"],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.timeout(WITHIN_S + 60)
def test_make_demo_from_a_clean_checkout(demo: subprocess.Popen[str], checkout: Path) -> None:
    output = read_until(demo, "To stop:")
    seconds = [
        float(line.split()[0])
        for line in output.splitlines()
        if "first answer of /api/overview" in line
    ]
    assert seconds, output
    assert "24,222 trades" in output
    (command,) = [line.strip() for line in output.splitlines() if line.strip().startswith("curl ")]

    first = answer(command)
    assert first["totals"]["trades"] >= 24_222
    assert first["tokens"][0]["token_id"]
    deadline = time.monotonic() + 30
    while answer(command)["totals"]["trades"] == first["totals"]["trades"]:
        assert time.monotonic() < deadline, "no new trade arrived"
        time.sleep(0.1)

    pids = [
        int(line.split()[1]) for line in (checkout / "var/demo/stack.pids").read_text().splitlines()
    ]
    assert len(pids) >= 6
    assert all(map(alive, pids))
    os.killpg(demo.pid, signal.SIGINT)
    # make ends by the signal itself once the demo has ended.
    assert demo.wait(20) in {0, -signal.SIGINT}, output
    wait_gone(pids)


def answer(command: str) -> dict[str, object]:
    """What the printed curl line gives."""
    done = subprocess.run(
        [*shlex.split(command), "--silent", "--fail-with-body"],
        check=True,
        capture_output=True,
        timeout=20,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def read_until(process: subprocess.Popen[str], mark: str) -> str:
    """The output up to the line that holds `mark`."""
    assert process.stdout is not None
    lines = []
    deadline = time.monotonic() + WITHIN_S
    for line in process.stdout:
        lines.append(line)
        if mark in line:
            return "".join(lines)
        assert time.monotonic() < deadline, "".join(lines)
    raise AssertionError("make demo ended:\n" + "".join(lines))
