"""Web nodes as they run, for tests: Daphne processes that share a Redis and a database.

There need be no aggregator: `/api/status` answers without a board.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx

from api.auth.demo_issuer import ensure_keys, issue
from infra.embedded.engine import Process
from infra.embedded.ports import free_port
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.support.migrated import migrated_database
from tests.support.plain import PLAIN
from tests.support.processes import wait_until

ROOT = Path(__file__).parents[2]
STATUS = "/api/status"


class Nodes:
    """A Redis, a database and the web nodes that a test starts; nothing outlives the block."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.engines = Stack(directory / "engines", only=(Redis,))
        self.key = ensure_keys(directory / "issuer")
        self.env = {
            **{name: value for name, value in os.environ.items() if "DJANGO" not in name},
            "DJANGO_SECRET_KEY": "x" * 60,
            "DJANGO_SETTINGS_MODULE": "swapsite.settings",
            "DATABASE_FILE": str(directory / "db.sqlite3"),
            "JWT_PUBLIC_KEY_FILE": str(directory / "issuer" / "public.pem"),
            "NATS_URL": f"nats://127.0.0.1:{free_port()}",
            "LOG_FORMAT": "json",
            **settings,
        }
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self._closing.enter_context(self.engines)
        self.env |= self.engines.env()
        if "DATABASE_URL" in self.env:
            self.run("manage.py", "migrate", "-v", "0")
        else:
            migrated_database(self.directory).rename(self.env["DATABASE_FILE"])
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def run(self, *arguments: str, stdin: str = "", **env: str) -> str:
        """Run Python to its end; its output."""
        done = subprocess.run(
            [sys.executable, *arguments],
            check=False,
            cwd=ROOT,
            env=self.env | env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def shell(self, code: str) -> str:
        """Run lines in the project's shell, as an operator would, or a page of the admin."""
        return self.run("manage.py", "shell", "-v", "0", stdin=code)

    def token(self, sub: str = "test", scope: str = "stats:read ops:read", **claims: Any) -> str:
        """A token of the issuer; each has a `jti` of its own."""
        return issue(
            claims.get("key", self.key),
            subject=sub,
            issuer="swaps-demo",
            audience="swaps",
            scope=scope,
            issued_at=int(time.time()),
            ttl_ms=600_000,
        )

    def web(self, name: str = "web", *, redis: bool = True, **env: str) -> Node:
        """Start a node and wait until it answers and, with `redis`, until Redis is there."""
        port = free_port()
        process = Process(name, self.directory / f"{name}.log", self.engines.guard)
        command = [sys.executable, "-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", str(port)]
        process.launch([*command, "swapsite.asgi:application"], self.env | env, ROOT)
        self._closing.callback(process.kill)
        node = Node(process, f"http://127.0.0.1:{port}")
        process.wait_ready(node.alive if redis else node.answers)
        return node


class Node:
    """One web node."""

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url

    def alive(self) -> bool:
        """Whether it answers and its rate limits are those of Redis."""
        try:
            return not any("rate limits" in each for each in self.degraded())
        except httpx.TransportError:
            return False

    def answers(self) -> bool:
        """Whether it answers at all."""
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5, verify=PLAIN).status_code == 200
        except httpx.TransportError:
            return False

    def reasons(self) -> list[str]:
        """Why /readyz says that it should get no traffic."""
        answer = httpx.get(f"{self.url}/readyz", timeout=5, verify=PLAIN)
        found: list[str] = answer.json()["reasons"]
        return found

    def degraded(self) -> list[str]:
        """What /readyz says is wrong beside the reasons."""
        answer = httpx.get(f"{self.url}/readyz", timeout=5, verify=PLAIN)
        notes: list[str] = answer.json()["degraded"]
        return notes

    def get(self, token: str | None, path: str = STATUS, **headers: str) -> httpx.Response:
        """GET with the token."""
        bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{self.url}{path}", headers=bearer | headers, timeout=10, verify=PLAIN)

    def refuses(self, token: str) -> bool:
        """Whether the token is revoked here."""
        answer = self.get(token)
        return answer.status_code == 401 and answer.json()["code"] == "token_revoked"

    def wait_degraded(self, said: str, within_s: float = 5) -> None:
        """Wait until /readyz says it."""
        wait_until(lambda: any(said in each for each in self.degraded()), within_s, said)
