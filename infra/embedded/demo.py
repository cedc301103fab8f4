"""The service on top of a running stack: aggregator, archiver, web node, and a feed of real trades.

Runs the repository's commands as child processes in the stack's group and talks to them as any
client does. A process that ends after the start is started again. Must not import the service: this
module knows only its command lines, its addresses and its log events.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from infra.embedded import ports, proofs
from infra.embedded.engine import Process
from infra.embedded.errors import EmbeddedError
from infra.embedded.stack import Stack
from infra.embedded.supervisor import Job, Supervisor

REPOSITORY: Final = Path(__file__).parents[2]
WEB_PORT: Final = 8000
METRICS_PORT: Final = 9108
OVERVIEW: Final = "/api/overview?window=24h"
ADMIN_NAME: Final = "demo"

_DAY: Final = "data/ethereum_dex_day.ndjson.gz"
_TOKENS: Final = "data/ethereum_tokens.csv"
_DAY_MS: Final = 86_400_000
# The time of the recorded day that a fresh demo maps to the present. The hour after it is the day's
# busiest, with a trade every two seconds, and continues the ten minutes before it without a jump.
_NOW_IN_THE_DAY_MS: Final = (14 * 60 + 55) * 60_000
# A restarted feed repeats this much, because a killed feed may have lost its producer queue. It is
# longer than the producer's message timeout.
_SENT_AGAIN_MS: Final = 150_000
# The dashboard's token lives briefly and is renewed long before it expires.
_PAGE_TTL: Final = "15m"
_PAGE_RENEWED_S: Final = 300
# All visitors of a demo's dashboard share one subject.
_PAGE_CONNECTIONS: Final = "200"
# Every scope that a visitor of the demo may need; tokens of a real deployment have fewer.
_SCOPE: Final = "stats:read history:read ws:connect ops:read swaps:write"
_STOP_WITHIN_S: Final = 6
_FEED_WITHIN_S: Final = 120
_READY_WITHIN_S = 120
_COUNTED_WITHIN_S: Final = 60
_POLL_S: Final = 0.1


class Service:
    """The processes of an aggregator, an archiver, a web node and optionally a feed.

    `issue_keys`, `issue_page_token`, `compile_engine` and `prepare_site` need no engine and may run
    while the engines start. Call `start` after them.
    """

    def __init__(self, stack: Stack, web_port: int, metrics_port: int) -> None:
        self._stack = stack
        self.web_port = web_port
        self.metrics_port = metrics_port
        self.token = ""
        self._issuer = stack.directory / "issuer"
        self._database = stack.directory / "site.sqlite3"
        self._children: dict[str, Process] = {}
        self._supervisor: Supervisor | None = None
        self._partitions = 0
        self._archiver_port = ports.free_port()
        self._fed_until_ms = self._feed_seen_ms = self._fed_offsets = 0
        self._page_token = stack.directory / "page-token"
        self._page_token_at = 0.0

    @property
    def web_url(self) -> str:
        """The address of REST and WebSocket."""
        return f"http://{ports.HOST}:{self.web_port}"

    @property
    def metrics_url(self) -> str:
        """The address of the aggregator's metrics."""
        return f"http://{ports.HOST}:{self.metrics_port}/metrics"

    @property
    def archiver_metrics_url(self) -> str:
        """The address of the archiver's metrics."""
        return f"http://{ports.HOST}:{self._archiver_port}/metrics"

    def addresses(self) -> dict[str, str]:
        """Return the service's variables for stack.env."""
        return {
            "WEB_URL": self.web_url,
            "METRICS_URL": self.metrics_url,
            "JWT_PUBLIC_KEY_FILE": str(self._issuer / "public.pem"),
            "ISSUER_DIR": str(self._issuer),
        }

    def issue_keys(self) -> None:
        """Create the demo issuer's keys if they are missing, and issue a token."""
        command = ["issue_token", "--sub", "demo", "--ttl", "12h"]
        command += ["--scope", _SCOPE]
        environment = {**os.environ, "ISSUER_DIR": str(self._issuer)}
        self.token = _done(command, environment)

    def issue_page_token(self) -> None:
        """Write the token with which the dashboard logs in; the web node reads it from the file."""
        command = ["issue_token", "--sub", "dashboard", "--ttl", _PAGE_TTL]
        command += ["--scope", "stats:read history:read ws:connect"]
        token = _done(command, {**os.environ, "ISSUER_DIR": str(self._issuer)})
        written = self._page_token.with_suffix(".new")
        written.touch(mode=0o600)
        written.write_text(token)
        written.replace(self._page_token)
        self._page_token_at = time.monotonic()

    def renew_page_token(self) -> None:
        """Write a new token if the last one is some minutes old."""
        if time.monotonic() - self._page_token_at > _PAGE_RENEWED_S:
            self._page_token_at = time.monotonic()
            # On failure the last token stays, which is valid for two more turns.
            with contextlib.suppress(EmbeddedError):
                self.issue_page_token()

    def compile_engine(self) -> None:
        """Compile the window engine, which takes the most time of the very first start."""
        _done(["compile_engine"], dict(os.environ))

    def prepare_site(self) -> None:
        """Migrate the admin's database; the first time, create an operator account."""
        environment = {**os.environ, **self._site()}
        first = not self._database.exists()
        _done(["migrate", "-v", "0"], environment)
        if first:
            account = {
                "DJANGO_SUPERUSER_USERNAME": ADMIN_NAME,
                "DJANGO_SUPERUSER_PASSWORD": _secret(self.admin_password_file),
                "DJANGO_SUPERUSER_EMAIL": "",
            }
            _done(["createsuperuser", "--noinput"], environment | account)

    @property
    def admin_password_file(self) -> Path:
        """The file with the password of ADMIN_NAME in this stack's admin."""
        return self._stack.directory / "admin-password"

    def start(self, report: Callable[[str], None]) -> None:
        """Start everything but the feed and return when the web node is ready.

        From then on `tend` restarts a process that ends and reports that through `report`.
        """
        begun = time.monotonic()
        serve = ["-v", "0", "-b", ports.HOST, "-p", str(self.web_port), "swapsite.asgi:application"]
        commands = {
            "archiver": _manage("run_archiver"),
            "aggregator": _manage("run_aggregator", "--no-archiver"),
            "web": [sys.executable, "-m", "daphne", *serve],
        }
        for name, command in commands.items():
            self._children[name] = self._launch(name, command)
        self._wait(self._readyz, _READY_WITHIN_S, "the web node")
        self._partitions = len(self._ask_readyz()["partitions"])
        self._wait(lambda: self._archiving() is not None, _READY_WITHIN_S, "the archiver")
        self._supervisor = Supervisor(report)
        proven: dict[str, Callable[[Process], str | None]] = {
            "archiver": lambda _: self._archiving(),
            "aggregator": lambda each: proofs.counting(each.written(), self._partitions),
            "web": lambda _: self._serving(),
        }
        for name, command in commands.items():
            self._watch(name, partial(list, command), proven[name])
        report(
            f"aggregator, archiver and web ready at {self.web_url}, "
            f"{time.monotonic() - begun:.1f} s"
        )

    def _watch(
        self,
        name: str,
        command: Callable[[], list[str]],
        proof: Callable[[Process], str | None],
    ) -> None:
        assert self._supervisor is not None
        job = Job(name, command, self._environment(name), REPOSITORY, proof)
        self._supervisor.add(job, self._children[name])

    def _readyz(self) -> bool:
        return self._get("/readyz")[0] == http.HTTPStatus.OK

    def _ask_readyz(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._get("/readyz")[1])
        return answer

    def _serving(self) -> str | None:
        try:
            return proofs.serving(self._ask_readyz())
        except (OSError, ValueError):
            return None

    def _archiving(self) -> str | None:
        return proofs.archiving(self._children["archiver"].written(), self._partitions)

    def feed_history(self, report: Callable[[str], None]) -> None:
        """Feed the recorded day as the last 24 hours and wait until it is sent."""
        begun = time.monotonic()
        before = self._offsets()
        self._fed_until_ms = _now_ms()
        since = self._fed_until_ms - _DAY_MS
        command = self._feed("--since", str(since), "--until", str(self._fed_until_ms))
        feed = self._launch("feed-history", [*command, "--create-topic"])
        _done(["import_tokens", _TOKENS], self._environment("web"))
        self._wait(lambda: not feed.running, _FEED_WITHIN_S, "the feed")
        if feed.wait() != 0:
            feed.check()
        if sent := re.search(r"fed ([\d,]+) events", feed.tail()):
            self._fed_offsets = before + int(sent[1].replace(",", ""))
        report(f"the Ethereum day sent, {time.monotonic() - begun:.1f} s")

    def feed_live(self) -> None:
        """Feed the rest of the recorded day, and the day again, at its own pace until the end."""
        self._feed_seen_ms = _now_ms()
        self._children["feed"] = self._launch("feed", self._feed_on())
        self._watch("feed", self._feed_on, lambda each: proofs.feeding(each.written()))

    def _feed_on(self) -> list[str]:
        """Return the feed's command; it repeats what may not have been sent, with the same ids."""
        since = max(self._fed_until_ms, self._feed_seen_ms - _SENT_AGAIN_MS)
        return self._feed("--since", str(since))

    def _feed(self, *options: str) -> list[str]:
        origin = self._stack.directory / "feed-origin"
        if not origin.exists():
            origin.write_text(str(_now_ms() - _NOW_IN_THE_DAY_MS))
        # The origin is kept in a file, so that a stack that restarts on its data continues with the
        # same trades.
        return _manage("feed", "--continue", "--origin", origin.read_text(), *options, _DAY)

    def add(
        self,
        name: str,
        command: list[str],
        proof: Callable[[Process], str | None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start another process in the service's environment, and keep it running as the others.

        `environment` is added to the service's; without a METRICS_PORT the process has none. For
        `proof` see `Job`. Call it after `start`.
        """
        own = self._environment(name) | {"METRICS_PORT": "0"} | dict(environment or {})
        child = Process(name, self._stack.directory / "log" / f"{name}.log", self._stack.guard)
        child.launch(command, own, REPOSITORY)
        self._children[name] = child
        assert self._supervisor is not None
        job = Job(name, partial(list, command), own, REPOSITORY, proof)
        self._supervisor.add(job, child)

    def manage(self, *arguments: str) -> str:
        """Run a management command in the service's environment and return its output."""
        return _done(list(arguments), self._environment("web"))

    def counted(self) -> dict[str, Any]:
        """Wait until the aggregator has counted everything that was sent; return the overview.

        After a timeout, returns the overview as it is. Raises EmbeddedError if the request fails.
        """
        self._wait(
            lambda: self._offsets() >= self._fed_offsets,
            _COUNTED_WITHIN_S,
            "the count",
            must=False,
        )
        status, body = self._get(OVERVIEW)
        if status != http.HTTPStatus.OK:
            raise EmbeddedError(f"GET {OVERVIEW} answered {status}: {body.decode()[:500]}")
        answer: dict[str, Any] = json.loads(body)
        return answer

    def _offsets(self) -> int:
        """Return the sum of the aggregator's next offsets over all partitions."""
        owned = (each["owner_next_offset"] or 0 for each in self._ask_readyz()["partitions"])
        return sum(owned)

    def curl(self) -> str:
        """Return a command line that requests the overview."""
        return f"curl -s -H 'Authorization: Bearer {self.token}' '{self.web_url}{OVERVIEW}'"

    def tend(self) -> bool:
        """Restart processes that have ended; return whether a process id changed.

        Before `start` has returned, raises EngineDied for a child that has ended.
        """
        if self._supervisor is None:
            for child in self._children.values():
                child.check()
            return False
        if (feed := self._children.get("feed")) is not None and feed.running:
            self._feed_seen_ms = _now_ms()
        return self._supervisor.tend()

    def stop(self) -> None:
        """Stop the feed, web node, aggregator and archiver; does nothing if they do not run."""
        children = list(reversed(self._children.values()))
        for child in children:
            child.terminate()
        for child in children:
            child.stop(_STOP_WITHIN_S)

    def pids(self) -> dict[str, int]:
        """Return the process ids of the children by name."""
        return {name: child.pid for name, child in self._children.items()}

    def _launch(self, name: str, command: list[str]) -> Process:
        child = Process(name, self._stack.directory / "log" / f"{name}.log", self._stack.guard)
        child.launch(command, self._environment(name), REPOSITORY)
        return child

    def _wait(
        self,
        done: Callable[[], bool],
        within_s: float,
        what: str,
        must: bool = True,
    ) -> None:
        deadline = time.monotonic() + within_s
        while not _asked(done):
            self.tend()
            self._stack.check()
            if time.monotonic() > deadline:
                if not must:
                    return
                raise EmbeddedError(f"{what} was not ready within {within_s:.0f} s: {self._why()}")
            time.sleep(_POLL_S)

    def _why(self) -> str:
        try:
            status, body = self._get("/readyz")
        except OSError as error:
            return f"/readyz: {error}"
        return f"/readyz answers {status} {body.decode(errors='replace')[:500]}"

    def _environment(self, name: str) -> dict[str, str]:
        port = self._archiver_port if name == "archiver" else self.metrics_port
        own = {
            "METRICS_PORT": str(port),
            # proofs.py parses the log.
            "LOG_FORMAT": "json",
        }
        if name in {"aggregator", "archiver"}:
            # A static member gets its partitions back immediately; otherwise the group would wait
            # for the killed process until its session times out.
            own["KAFKA_INSTANCE_ID"] = f"embedded-{name}"
        return {**os.environ, **self._stack.env(), **self.addresses(), **self._site(), **own}

    def _site(self) -> dict[str, str]:
        return {
            "DATABASE_FILE": str(self._database),
            "DJANGO_SECRET_KEY": _secret(self._stack.directory / "django-secret"),
            "DEBUG": "0",
            "DEMO_TOKEN_FILE": str(self._page_token),
            "WS_SUBJECT_CONNECTIONS": _PAGE_CONNECTIONS,
        }

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(ports.HOST, self.web_port, timeout=5)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()


def _done(command: list[str], environment: dict[str, str]) -> str:
    """Run a management command to its end and return its output."""
    done = subprocess.run(
        _manage(*command),
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise EmbeddedError(f"manage.py {command[0]} failed:\n{done.stderr.strip()}")
    return done.stdout.strip()


def _asked(done: Callable[[], bool]) -> bool:
    try:
        return done()
    except OSError:
        return False


def _manage(*arguments: str) -> list[str]:
    return [sys.executable, "manage.py", *arguments]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _secret(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(50))
    return path.read_text()
