"""Runs the shipped nginx.conf in a real nginx in front of a test's web nodes.

It replaces the upstream's server (Debian's nginx does not support `resolve`, and the ports of a
test's nodes vary), the port on which nginx listens, and the directories to which it writes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from infra.embedded.ports import free_port
from tests.support.processes import wait_until

_CONF: Final = Path(__file__).parents[2] / "infra/nginx/nginx.conf"
_ADVICE: Final = "no nginx: apt-get install nginx, or set NGINX to its path"


def nginx() -> str:
    """Return the program's path. Without one the test is skipped; with CI=true it fails."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    if found := shutil.which(os.environ.get("NGINX", "nginx"), path=path):
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(_ADVICE)
    pytest.skip(_ADVICE)


@contextmanager
def proxy(directory: Path, ports: Sequence[int]) -> Iterator[int]:
    """Run nginx in front of the nodes at these ports; yield its port."""
    program, port = nginx(), free_port()
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)  # If root starts nginx, its workers run as another user.
    conf = directory / "nginx.conf"
    conf.write_text(_adapted(_CONF.read_text(), directory, ports, port))
    command = [program, "-c", str(conf), "-e", str(directory / "error.log"), "-g", "daemon off;"]
    with (directory / "access.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: _answers(port), 20, f"nginx: {(directory / 'access.log').read_text()}")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _adapted(text: str, directory: Path, ports: Sequence[int], port: int) -> str:
    [options] = re.findall(r"server web:8000 resolve(.*);", text)
    servers = "\n".join(f"        server 127.0.0.1:{each}{options};" for each in ports)
    for pattern, put in (
        (r" *server web:8000 .*;", servers),
        (r"listen 8080;", f"listen 127.0.0.1:{port};"),
        (r"/tmp/", f"{directory}/"),
        (r"worker_processes auto;", "worker_processes 1;"),
        (r"worker_rlimit_nofile \d+;", ""),
        (r"worker_connections \d+;", "worker_connections 512;"),
        (r"error_log .*;", f"error_log {directory}/error.log warn;"),
    ):
        text, count = re.subn(pattern, put, text)
        assert count, pattern
    return text


def _answers(port: int) -> bool:
    done = subprocess.run(
        ["curl", "-fsS", f"http://127.0.0.1:{port}/nginx-alive"], capture_output=True, check=False
    )
    return done.returncode == 0
