"""A live source in place of the recorded trades: `manage.py run_source` beside the service.

Knows only the command line of a source and the events of its log.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial

from infra.embedded import ports, proofs
from infra.embedded.demo import REPOSITORY, Service
from infra.embedded.errors import EmbeddedError
from infra.embedded.run import Play
from infra.embedded.stack import Stack


def source(arguments: Sequence[str]) -> Play:
    """Return what starts a source with these arguments of `run_source`.

    Raises EmbeddedError with the source's own words where the arguments have faults.
    """
    command = [sys.executable, "manage.py", "run_source", *arguments]
    done = subprocess.run(
        [*command, "--check"],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise EmbeddedError(done.stderr.strip())
    return partial(play, command)


def play(
    command: list[str], stack: Stack, service: Service, report: Callable[[str], None]
) -> Sequence[str]:
    """Start a source with this command beside a service; return the lines about it."""
    port = ports.free_port()
    service.add(
        "source",
        command,
        lambda each: proofs.reading(each.written()),
        # A static member of its group, so that a restart does not wait for a session to time out.
        {"METRICS_PORT": str(port), "KAFKA_INSTANCE_ID": "embedded-source"},
    )
    report("source started")
    log = stack.directory / "log" / "source.log"
    return (f"Source    its log is {log}, its metrics are http://{ports.HOST}:{port}/metrics",)
