"""The README's commands in a clean checkout with an empty environment."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.docs_commands import fences
from tests.support.processes import alive, wait_gone

ROOT = Path(__file__).parents[2]
WETH = "ethereum:0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"
README = (ROOT / "README.md").read_text()
# Variables for package mirrors and certificates belong to the machine, so they are kept.
KEPT = re.compile(
    r"PATH$|LANG$|PIP_|SSL_|REQUESTS_CA_BUNDLE$|HTTPS?_PROXY$|NO_PROXY$", re.IGNORECASE
)
WITHIN_S = 600


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the tracked files as they are now, like a clone."""
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


def clean_environment(directory: Path) -> dict[str, str]:
    """Return the environment of a new user's shell, with an empty home."""
    home = directory / "home"
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if KEPT.match(name)}
    return kept | {"HOME": str(home)}


@pytest.fixture
def demo(checkout: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    assert "make demo" in README
    environment = clean_environment(tmp_path)
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
    assert output.count("installing the locked requirements; the first time that takes") == 1
    assert "Collecting" not in output
    (password,) = re.findall(r"^ +(/.*/admin-password)$", output, re.MULTILINE)
    assert len(Path(password).read_text()) > 20
    (command,) = [line.strip() for line in output.splitlines() if line.strip().startswith("curl ")]

    first = answer(command)
    # The recorded day without the few minutes since it was sent.
    assert 23_500 < first["totals"]["trades"] <= 24_222
    assert first["tokens"][0]["token_id"] == WETH
    assert first["tokens"][0]["name"] == "Wrapped Ether"
    assert sum(float(row["windows"]["24h"]["price_change_pct"]) == 0 for row in first["tokens"]) < 3
    deadline = time.monotonic() + 30
    while answer(command)["totals"]["volume_usd"] == first["totals"]["volume_usd"]:
        assert time.monotonic() < deadline, "no new trade arrived"
        time.sleep(0.1)

    run_the_examples(demo, checkout, clean_environment(checkout.parent))
    pids = [
        int(line.split()[1]) for line in (checkout / "var/demo/stack.pids").read_text().splitlines()
    ]
    assert len(pids) >= 6
    assert all(map(alive, pids))
    os.killpg(demo.pid, signal.SIGINT)
    # make ends by the signal once the demo has ended.
    assert demo.wait(20) in {0, -signal.SIGINT}, output
    wait_gone(pids)


def run_the_examples(demo: subprocess.Popen[str], checkout: Path, env: dict[str, str]) -> None:
    """Run the README's blocks as a reader pastes them into another terminal."""
    blocks = list(fences(ROOT / "README.md"))
    shells = [content for language, content in blocks if language == "sh"]
    [token] = [content for content in shells if "var/demo/stack.env" in content]
    [ask] = [content for content in shells if content.startswith("curl ")]
    [kill] = [content for content in shells if content.startswith("make kill")]
    [listen] = [content for language, content in blocks if language == "python"]

    def pasted(script: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=checkout,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    overview, stats, status = documents(pasted(token + ask))
    assert len(overview["tokens"]) == 10
    assert stats["token_id"] == WETH
    assert len(status["partitions"]) == 4

    (checkout / "listen.py").write_text(listen)
    # test_client_examples.py tests the client's separate environment.
    python = f"PYTHONUNBUFFERED=1 PYTHONPATH=clients/python {sys.executable} listen.py"
    with subprocess.Popen(
        ["bash", "-c", f"{token}\nexec env {python}"],
        cwd=checkout,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    ) as listening:
        try:
            assert listening.stdout is not None
            token_id, symbol, volume = next(listening.stdout).split()
        finally:
            listening.kill()
    assert token_id.startswith("ethereum:")
    assert symbol
    assert float(volume) > 0

    for line in kill.splitlines():
        assert "runs again as process" in pasted(line)
        assert "was killed (signal 9): started again, " in read_until(demo, "started again")


def documents(text: str) -> list[dict[str, Any]]:
    """Yield the JSON documents of a text."""
    found, decode = [], json.JSONDecoder().raw_decode
    while text := text.lstrip():
        document, end = decode(text)
        found.append(document)
        text = text[end:]
    return found


def answer(command: str) -> dict[str, Any]:
    """Run the printed curl line and return its response."""
    done = subprocess.run(
        [*shlex.split(command), "--silent", "--fail-with-body"],
        check=True,
        capture_output=True,
        timeout=20,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def read_until(process: subprocess.Popen[str], mark: str) -> str:
    """Return the output up to the line that contains `mark`."""
    assert process.stdout is not None
    lines = []
    deadline = time.monotonic() + WITHIN_S
    for line in process.stdout:
        lines.append(line)
        if mark in line:
            return "".join(lines)
        assert time.monotonic() < deadline, "".join(lines)
    raise AssertionError("make demo ended:\n" + "".join(lines))
