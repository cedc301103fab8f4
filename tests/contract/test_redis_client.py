"""The connection to Redis: what it refuses at the start, and which errors end a connection."""

from __future__ import annotations

import secrets
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from aggregator.redis.client import UNCHECKED, RedisClient
from aggregator.runtime.config import load
from aggregator.runtime.errors import Fatal, Retry
from console.doctor import redis as doctor
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.contract.snapshot_stores import Owner, RedisStore
from tests.support.processes import wait_until

pytestmark = pytest.mark.engines

INDEX = "snapshot_index.lua"


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Stack]:
    """A Redis whose settings a test may change."""
    with Stack(tmp_path, only=(Redis,)) as stack:
        yield stack


@pytest.fixture
def client(own_redis: Stack) -> Iterator[RedisClient]:
    client = RedisClient(own_redis.redis.url)
    client.connect()
    yield client
    client.close()


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [("maxmemory-policy", "allkeys-lru", "noeviction"), ("appendonly", "no", "appendonly")],
)
def test_a_redis_that_may_lose_state_is_refused(
    own_redis: Stack, client: RedisClient, setting: str, value: str, named: str
) -> None:
    with redis.Redis.from_url(own_redis.redis.url) as admin:
        admin.config_set(setting, value)
    with pytest.raises(Fatal, match=named):
        client.connect()
    found = doctor.check(load({"REDIS_URL": own_redis.redis.url}))
    assert [each.what for each in found if each.level == "FAIL"] == [f"redis {setting}"]


def test_a_redis_that_cannot_be_reached_is_a_retry() -> None:
    client = RedisClient("redis://127.0.0.1:1/0")
    for call in (
        client.connect, client.ping, lambda: client.values([b"a"]),
        lambda: client.fields(b"a", [b"b"]), lambda: client.call(INDEX, [b"a"], ["0", 1]),
    ):  # fmt: skip
        with pytest.raises(Retry):
            call()
    client.close()


def test_a_script_that_the_server_does_not_know_is_loaded(
    own_redis: Stack, client: RedisClient
) -> None:
    with redis.Redis.from_url(own_redis.redis.url) as admin:
        for _ in range(2):
            admin.script_flush()
            assert client.call(INDEX, [b"a"], ["0", 1]) == [b"0", [], []]
            assert client.call(INDEX, [b"a"], ["0", 1]) == [b"0", [], []]
            scripts = admin.info("memory")["number_of_cached_scripts"]
            assert scripts == 1


def test_a_server_that_runs_a_script_of_another_client_is_a_retry(
    own_redis: Stack, client: RedisClient
) -> None:
    with redis.Redis.from_url(own_redis.redis.url) as admin:
        admin.config_set("busy-reply-threshold", 1)

        def spin() -> None:
            with (
                pytest.raises(redis.ResponseError),
                redis.Redis.from_url(own_redis.redis.url) as other,
            ):
                other.eval("while true do end", 0)

        spinning = threading.Thread(target=spin)
        spinning.start()
        errors: list[str] = []

        def busy() -> bool:
            try:
                client.fields(b"a", [b"b"])
            except Retry as error:
                errors.append(str(error))
            return bool(errors)

        try:
            wait_until(busy, 20, "a busy server")
        finally:
            admin.script_kill()
            spinning.join()
    assert "busy" in errors[0].lower()
    client.ping()


class Errors(socketserver.ThreadingTCPServer):
    """Answers every command with one error, and counts connections. Speaks only that much RESP."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, error: str) -> None:
        self.error = error
        self.connections = 0
        super().__init__(("127.0.0.1", 0), _Answers)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server_address[1]}/0?protocol=2"


class _Answers(socketserver.StreamRequestHandler):
    server: Errors

    def handle(self) -> None:
        self.server.connections += 1
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2])
            if words[0] == b"CLIENT":
                self.wfile.write(b"+OK\r\n")
            else:
                self.wfile.write(f"-{self.server.error}\r\n".encode())


@pytest.mark.parametrize(
    ("error", "leaves"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("LOADING Redis is loading the dataset in memory", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("MOVED 3999 127.0.0.1:6381", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("TRYAGAIN Multiple keys request during rehashing of slot", False),
        ("BUSY Redis is busy running a script.", False),
        ("NOPERM User default has no permissions to run the 'evalsha' command", False),
        ("MISCONF Errors writing to the AOF file", False),
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_a_server_that_cannot_serve_is_left(error: str, leaves: bool) -> None:
    server = Errors(error)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    client = RedisClient(server.url)
    calls: list[Any] = [
        lambda: client.call(INDEX, [b"a"], ["0", 1]),
        lambda: client.fields(b"a", [b"b"]),
        lambda: client.values([b"a"]),
        client.ping,
    ]
    try:
        for call in calls:
            with pytest.raises(Retry) as caught:
                call()
            assert ("refuses this user" in str(caught.value)) == error.startswith("NOPERM")
        assert server.connections == (len(calls) if leaves else 1)
    finally:
        client.close()
        server.shutdown()
        server.server_close()
        serving.join()


class WithoutConfig(Redis):
    """A server without CONFIG, like managed servers."""

    def command(self) -> list[str | Path]:
        return [*super().command(), "--rename-command", "CONFIG", ""]


def forbid_config(client: redis.Redis, strictly: bool) -> tuple[str, str]:
    """Create a user without CONFIG; `strictly`: only with the rights that docs/operations.md asks.

    Returns its name and password.
    """
    user = f"u{secrets.token_hex(4)}"
    client.acl_setuser(
        user,
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        channels=["*"],
        categories=["+@all", "-@dangerous"] if strictly else ["+@all"],
        commands=["+info"] if strictly else ["-config"],
    )
    return user, "secret"


@pytest.mark.parametrize("how", ["acl", "strict acl", "renamed"])
def test_a_server_that_forbids_config_is_used_with_a_warning(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Stack(tmp_path, only=(WithoutConfig if how == "renamed" else Redis,)) as own:
        url = own.redis.url
        with redis.Redis.from_url(url) as admin:
            if how != "renamed":
                user, password = forbid_config(admin, strictly=how == "strict acl")
                url = url.replace("://", f"://{user}:{password}@")
        store = RedisStore(url)
        store.client().connect()
        owner = Owner(store.new(), 1)
        owner.change({b"a": b"1"})
        owner.close_block(b"0")
        owner.save()
        owner.forget_block()
        owner.save()
        assert store.new().load(0) == owner.state()
        store.close()
        assert UNCHECKED in caplog.text
        found = doctor.check(load({"REDIS_URL": url}))
        assert [each.level for each in found].count("FAIL") == 0, found
        (warned,) = [each for each in found if each.level == "WARN"]
        assert warned.said == UNCHECKED
        assert "noeviction" in warned.fix


def test_a_user_without_rights_is_not_reported_as_a_redis_that_is_down(
    own_redis: Stack,
) -> None:
    with redis.Redis.from_url(own_redis.redis.url) as admin:
        admin.acl_setuser("weak", enabled=True, passwords=["+secret"], commands=["+ping"])
    url = own_redis.redis.url.replace("://", "://weak:secret@")
    client = RedisClient(url)
    with pytest.raises(Retry, match="refuses this user"):
        client.connect()
    client.close()
    (found,) = doctor.check(load({"REDIS_URL": url}))
    assert found.level == "FAIL"
    assert "refuses this user" in found.said
    assert "start it" not in found.fix
    (down,) = doctor.check(load({"REDIS_URL": "redis://127.0.0.1:1/0"}))
    assert "start it" in down.fix
