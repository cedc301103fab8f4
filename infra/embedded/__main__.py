"""`python -m infra.embedded`: run, up, down, status and kill of the embedded stack."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from infra.embedded import background, live
from infra.embedded.demo import REPOSITORY
from infra.embedded.errors import EmbeddedError
from infra.embedded.run import Options, default_ports, run


def main(arguments: list[str]) -> int:
    """Run the command that the arguments name and return the exit status."""
    given = _parser().parse_args(arguments)
    directory = given.dir.absolute()
    from_outside = {
        "down": lambda: background.down(directory),
        "status": lambda: background.status(directory),
        "kill": lambda: background.kill(directory, given.process),
        "up": lambda: background.up(directory, arguments[1:]),
    }
    if given.command in from_outside:
        try:
            return from_outside[given.command]()
        except EmbeddedError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    asked = {name: getattr(given, f"{name}_port") for name in default_ports()}
    service = given.service or given.feed or given.source is not None
    try:
        play = None if given.source is None else live.source(given.source)
    except EmbeddedError as error:
        print(error, file=sys.stderr)
        return 1
    return run(Options(directory, asked, service, given.feed, given.fresh, play=play))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.embedded",
        description="Kafka, Redis, NATS, S3 and ClickHouse from Python wheels: no Docker, no root.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "start and stay in the foreground until Ctrl-C"),
        ("up", "start in the background and return when everything is ready"),
        ("down", "stop what `up` or `run` started"),
        ("status", "print processes and addresses"),
        ("kill", "kill -9 a process to see how the stack recovers"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--dir",
            type=Path,
            default=REPOSITORY / "var",
            help="data, logs and stack.env (default: var in the repository)",
        )
        if name == "kill":
            command.add_argument("process", help="a name that `status` shows")
        if name in {"run", "up"}:
            _add_start_options(command)
    return parser


def _add_start_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--service", action="store_true", help="also run the aggregator, archiver and web node"
    )
    command.add_argument(
        "--feed", action="store_true", help="also feed real trades: a day's history, then live ones"
    )
    command.add_argument(
        "--source",
        type=shlex.split,
        metavar="ARGUMENTS",
        help="also run a live source: the arguments of `manage.py run_source`, as one text",
    )
    command.add_argument(
        "--fresh", action="store_true", help="remove the data of an earlier run first"
    )
    for name, default in default_ports().items():
        variable = f"{name.upper()}_PORT"
        command.add_argument(
            f"--{name}-port",
            type=_port,
            default=os.environ.get(variable) or None,
            metavar="PORT",
            help=f"default: {variable}, else {default} or the next free one; 0: any free one",
        )


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
