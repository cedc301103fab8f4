"""The place where the documents' commands run: a directory like a checkout, and a running service.

The README's commands prepare and start it. `Site.reader` is what a reader replaces by hand, such as
the address of a node; the rest of a command stays as it is written.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final
from uuid import uuid4

from infra.embedded.engine import Process
from infra.embedded.ports import free_port
from infra.embedded.s3 import COLD_BUCKET
from infra.embedded.stack import Stack
from tests.support.archived import Archive
from tests.support.docs_commands import ROOT, fences
from tests.support.processes import wait_until
from tests.support.service import Service, swap

BIN: Final = Path(sys.executable).parent
WITHIN_S: Final = 60
BEFORE: Final = (
    "infra/compose/secrets.sh",
    "python manage.py ensure_topology",
    "python manage.py migrate",
)
PROCESSES: Final = {
    "aggregator": "python manage.py run_aggregator",
    "archiver": "python manage.py run_archiver",
    "web": "python -m daphne -v 0 -b 0.0.0.0 -p 8000 swapsite.asgi:application",
}
# The token of the README's examples.
WETH: Final = "ethereum:0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"
Done = subprocess.CompletedProcess[str]


class Site:
    """A checkout with a running service, and the values that a reader puts into the commands."""

    def __init__(self, directory: Path, service: Service, kept: Archive, stack: Stack) -> None:
        self.directory = directory
        self.service = service
        self.archive = kept
        self.stack = stack
        # In a bucket that exists: the server may not see a new folder for minutes.
        self.backups = stack.s3.data / COLD_BUCKET / f"backups-{uuid4().hex[:8]}"
        self.ports = {"aggregator": free_port(), "archiver": free_port(), "web": service.web_port}
        self.running: dict[str, Process] = {}
        self.done: dict[str, Done] = {}
        self.letters = 0
        web = f"http://127.0.0.1:{service.web_port}"
        path = (directory / "bin", BIN, directory, os.environ["PATH"])
        self.env = {"PATH": ":".join(map(str, path)), "TOKEN": service.token, "WEB_URL": web}
        self.reader = {
            "<this repository>": str(ROOT),
            "-p 8000": f"-p {service.web_port}",
            "http://127.0.0.1:9108": f"http://127.0.0.1:{self.ports['aggregator']}",
            "http://WEB:8000": web,
            "http://HOST:8080": web,
            "/data/": f"{directory}/web-data/",
            "--from DAY --to NOW": "--from 2026-01-01 --to 2026-01-02",
            "--day DAY": "--day yesterday",
            "seconds=30": "seconds=1",
            "seconds=60": "seconds=1",
            "DATABASE default": f"DATABASE {kept.name}",
            "rehearsal": f"{kept.name}_rehearsal",
            "https://backups.example.com/swaps": (
                f"{stack.s3.url}/{COLD_BUCKET}/{self.backups.name}"
            ),
            "'KEY', 'SECRET'": f"'{stack.s3.access_key}', '{stack.s3.secret_key}'",
        }

    def filled(self, text: str) -> str:
        """Return the command with the reader's values."""
        for written, meant in self.reader.items():
            text = text.replace(written, meant)
        return text

    def run(self, text: str, **env: str) -> Done:
        """Run a command in bash; it must succeed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.filled(text)],
            cwd=self.directory,
            env=self.service.env | self.env | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=WITHIN_S,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done

    def start(self) -> None:
        """Start the processes of the README's table and produce some swaps."""
        _lay_out(self.directory)
        for text in BEFORE:
            self.done[text] = self.run(text)
        for name, text in PROCESSES.items():
            env = self.env | {"METRICS_PORT": str(self.ports[name])}
            self.running[name] = self.service.launch(name, shlex.split(self.filled(text)), env)
        self.running["web"].wait_ready(lambda: self.service.get("/healthz").status_code == 200)
        self.service.wait_ready(WITHIN_S)
        token = WETH.partition(":")[2]
        swaps = [swap(n, token=token, symbol="WETH") for n in range(5)]
        self.service.produce(swaps, key=WETH)
        self.service.wait_trades(5)
        wait_until(lambda: self.archive.count() == 5, WITHIN_S, "the archive")
        # `make demo` writes this file.
        settings = {name: at for name, at in self.service.env.items() if os.environ.get(name) != at}
        self.service.engines.publish(settings | {"WEB_URL": self.env["WEB_URL"]})
        (self.directory / "var").mkdir()
        (self.directory / "var/demo").symlink_to(self.service.engines.directory)
        # `make up` writes this one.
        (self.directory / "var/stack.env").symlink_to("demo/stack.env")
        # A reader writes this one, as docs/sources.md shows it.
        [settings_of_sources] = [
            content for language, content in fences(ROOT / "docs/sources.md") if language == "toml"
        ]
        (self.directory / "sources.toml").write_text(settings_of_sources)


def _lay_out(directory: Path) -> None:
    """Create a checkout of links, with this Python's environment and the stand-in for `docker`."""
    for each in ROOT.iterdir():
        if each.name not in {".git", ".venv", "var", "secrets"}:
            (directory / each.name).symlink_to(each)
    (directory / ".venv").symlink_to(sys.prefix)
    (directory / "web-data").mkdir()
    docker = directory / "bin/docker"
    docker.parent.mkdir()
    docker.write_text(
        f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/support/docs_docker.py "$@"\n'
    )
    docker.chmod(0o755)
