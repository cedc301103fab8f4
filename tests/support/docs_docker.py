"""A stand-in for `docker`: runs on this machine what Compose would run in a container.

Reads the command line and docker-compose.yml as Compose does; an unknown service, profile or option
ends it with status 2. `run` and `exec` run their command with the caller's environment, which has
the engines' addresses. Starts and stops no container.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from clickhouse_driver import Client

COMPOSE = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROFILES = {name for each in SERVICES.values() for name in each.get("profiles", ())}


def parser() -> argparse.ArgumentParser:
    """Return a parser for the part of Docker Compose's command line that the documents use."""
    top = argparse.ArgumentParser(prog="docker", allow_abbrev=False)
    compose = top.add_subparsers(required=True).add_parser("compose", allow_abbrev=False)
    compose.add_argument("--profile", choices=PROFILES)
    commands = compose.add_subparsers(dest="command", required=True)

    def command(name: str, *flags: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, allow_abbrev=False)
        for flag in flags:
            found.add_argument(flag, action="store_true")
        return found

    up = command("up", "-d", "--wait", "--no-deps")
    up.add_argument("--scale", type=_scale)
    logs = command("logs", "-f")
    logs.add_argument("--since")
    for each in (up, logs, command("stop"), command("build"), command("ps")):
        each.add_argument("services", nargs="*", type=_service)
    run = command("run", "--rm", "--no-deps")
    run.add_argument("--user")
    run.add_argument("-v", dest="volumes", action="append", default=[], type=_volume)
    run.add_argument("-e", dest="set", action="append", default=[], type=_pair)
    for each in (run, command("exec", "-T")):
        each.add_argument("service", type=_service)
        each.add_argument("inner", nargs=argparse.REMAINDER)
    copy = command("cp")
    copy.add_argument("source", type=_place)
    copy.add_argument("target", type=Path)
    return top


def _service(name: str) -> str:
    if name not in SERVICES:
        raise argparse.ArgumentTypeError(f"no service {name} in docker-compose.yml")
    return name


def _scale(text: str) -> tuple[str, int]:
    service, _, count = text.partition("=")
    return _service(service), int(count)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _volume(text: str) -> tuple[str, str]:
    """Return (path in the container, path on this machine)."""
    here, _, there = text.partition(":")
    if not Path(here).is_dir():
        raise argparse.ArgumentTypeError(f"{here} is not there to be mounted")
    return there, here


def _place(text: str) -> Path:
    service, _, path = text.partition(":")
    _service(service)
    return Path(path)


def main() -> int:
    """Run the command and return its status."""
    given = parser().parse_args()
    if given.command == "cp":
        shutil.copy(given.source, given.target)
    if given.command not in {"run", "exec"}:
        return 0
    command = given.inner or SERVICES[given.service]["command"]
    if command[0] == "clickhouse-client":
        return _ask(command[1:])
    mounted = dict(getattr(given, "volumes", ()))
    variables = {name: mounted.get(value, value) for name, value in getattr(given, "set", ())}
    return subprocess.run(command, env=os.environ | variables, check=False).returncode


def _ask(arguments: list[str]) -> int:
    """Run the queries of `clickhouse-client` at the server of CLICKHOUSE_URL."""
    client = argparse.ArgumentParser(prog="clickhouse-client", allow_abbrev=False)
    client.add_argument("--password", required=True)
    client.add_argument("--query", required=True)
    query = client.parse_args(arguments).query
    with Client.from_url(os.environ["CLICKHOUSE_URL"]) as server:
        for row in server.execute(query):
            print(*row, sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
