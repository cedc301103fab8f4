"""The clients' README: install the Python client in a fresh environment, run both examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded.stack import Stack
from tests.integration.client_processes import node
from tests.service import Service, swap

ROOT = Path(__file__).parents[2]
README = (ROOT / "clients" / "README.md").read_text()


@pytest.fixture(scope="module")
def service(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("examples"), stack) as running:
        running.aggregator()
        running.web()
        running.wait_ready()
        # One token, so one partition, as a token has.
        running.produce([swap(n, token="SEEN") for n in range(3)], key="ethereum:SEEN")
        running.wait_trades(3)
        yield running


def environment(service: Service) -> dict[str, str]:
    """What the README has a reader set."""
    token = service.manage("issue_token", "--sub", "me").stdout.strip()
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # On a terminal Python prints line by line; into a pipe it would wait for a full buffer.
    kept["PYTHONUNBUFFERED"] = "1"
    return kept | {"WEB_URL": f"http://127.0.0.1:{service.web_port}", "TOKEN": token}


def prints_a_change(command: list[str], service: Service, directory: Path) -> None:
    """The example prints the token's volume, then the new one after another swap."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment(service),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = threading.Timer(30, process.kill)
    end.start()
    try:
        assert process.stdout is not None
        before = next(process.stdout).split()
        assert before[0] == "ethereum:SEEN", before
        number = time.time_ns()
        service.produce([swap(number, token="SEEN")], key="ethereum:SEEN")
        after = [*before[:1], f"{float(before[1]) + 10.5:.6f}"]
        seen = (line.split() for line in process.stdout)
        assert next((each for each in seen if each != before), None) == after
    finally:
        end.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.timeout(240)
def test_the_python_example_from_a_fresh_environment(service: Service, tmp_path: Path) -> None:
    assert "pip install '.[client]'" in README
    assert "python clients/python/example.py" in README
    checkout, venv = tmp_path / "checkout", tmp_path / "venv"
    # Nothing of the service is there: the client must not need it.
    shutil.copytree(
        ROOT / "clients", checkout / "clients", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=60)
    pip = [venv / "bin" / "pip", "--disable-pip-version-check"]
    installed = subprocess.run(
        [*pip, "install", f"{checkout}[client]"],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert installed.returncode == 0, installed.stderr
    listed = subprocess.run([*pip, "list"], check=True, capture_output=True, text=True, timeout=30)
    names = set(re.findall(r"^([\w-]+) +\d", listed.stdout, re.MULTILINE))
    assert names - {"pip", "setuptools"} == {"swap-aggregator", "websockets", "msgspec"}
    prints_a_change([str(venv / "bin" / "python"), "clients/python/example.py"], service, checkout)


def test_the_javascript_example(service: Service) -> None:
    assert "node clients/js/example.mjs" in README
    prints_a_change([*node(), "clients/js/example.mjs"], service, ROOT)
