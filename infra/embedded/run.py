"""Run a stack, with or without the service, in the foreground until a signal stops it.

The only place that assembles engines, service and feed. Prints each step with its time.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from infra.embedded import demo, ports
from infra.embedded.engine import Engine
from infra.embedded.errors import EmbeddedError, PortInUse
from infra.embedded.stack import ENGINES, STACK_LOG, Stack, holder

_CHECK_EVERY_S = 0.1
_OF_SERVICE = {"web", "metrics"}


Play = Callable[[Stack, demo.Service, Callable[[str], None]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    `ports` maps a name to a port: None is the default or the next free one, 0 is any free one.
    `fresh` removes the data of an earlier run first. `engines` are started besides ENGINES. `play`
    is called once the service is ready, and returns lines that are printed after its addresses.
    """

    directory: Path
    ports: Mapping[str, int | None]
    service: bool = False
    feed: bool = False
    fresh: bool = False
    engines: tuple[type[Engine], ...] = ()
    play: Play | None = None


class Steps:
    """Prints one line per step with the seconds since the start, including those of `make`."""

    def __init__(self) -> None:
        # make passes its start time, so that the times include what it did before.
        began = float(os.environ.get("DEMO_STARTED") or time.time())
        self._zero = time.monotonic() - max(0.0, time.time() - began)

    def __call__(self, text: str) -> None:
        """Print one step."""
        print(f"{time.monotonic() - self._zero:6.1f} s  {text}", flush=True)


def default_ports(others: tuple[type[Engine], ...] = ()) -> dict[str, int]:
    """Return the default port of each part; `others` are engines besides ENGINES."""
    engines = {engine.name: engine.default_port for engine in (*ENGINES, *others)}
    return {**engines, "web": demo.WEB_PORT, "metrics": demo.METRICS_PORT}


def run(options: Options) -> int:
    """Start everything and run until SIGINT, SIGTERM or SIGHUP; return the exit status.

    0 after a signal, 1 after a failure or an unexpected end of an engine.
    """
    _stop_on_signals()
    say = Steps()
    try:
        _serve(options, say)
    except EmbeddedError as error:
        print(f"\n{error}", flush=True)
        return 1
    except KeyboardInterrupt:
        say("stopped; nothing is left running")
    return 0


def _serve(options: Options, say: Steps) -> None:
    if options.fresh and holder(options.directory) is None:
        _clear(options.directory)
    chosen = _choose(options, say)
    only = (*ENGINES, *options.engines)
    stack = Stack(options.directory, only=only, ports=chosen, report=say)
    service = demo.Service(stack, chosen["web"], chosen["metrics"]) if options.service else None
    try:
        with ThreadPoolExecutor(3, "prepare") as pool:
            prepared = (
                [
                    pool.submit(service.issue_keys),
                    pool.submit(service.issue_page_token),
                    pool.submit(service.compile_engine),
                    pool.submit(service.prepare_site),
                ]
                if service
                else []
            )
            stack.start()
            for each in prepared:
                each.result()
        if service is None:
            stack.publish()
        else:
            _start_service(stack, service, options, say)
        print(
            f"\nAddresses: {stack.directory / 'stack.env'}\n"
            "To stop:   Ctrl-C, or `make down` from anywhere",
            flush=True,
        )
        while True:
            stack.check()
            if service:
                if service.tend():
                    stack.publish(service.addresses(), service.pids())
                service.renew_page_token()
            time.sleep(_CHECK_EVERY_S)
    finally:
        if service:
            service.stop()
        stack.stop()


def _clear(directory: Path) -> None:
    """Remove all data of an earlier run, except the log that `up` has just opened for this run."""
    for path in directory.glob("*"):
        if path.name == "log":
            for log in path.iterdir():
                if log.name != STACK_LOG:
                    log.unlink()
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _start_service(stack: Stack, service: demo.Service, options: Options, say: Steps) -> None:
    say("demo issuer's keys and a token made, window engine compiled")
    service.start(say)
    played = options.play(stack, service, say) if options.play else ()
    if options.feed:
        service.feed_history(say)
        answer = service.counted()
        totals, tokens = answer["totals"], answer["tokens"]
        say(f"first answer of {demo.OVERVIEW}: {totals['trades']:,} trades")
        for token in tokens[:3]:
            window = token["windows"]["24h"]
            name = token["symbol"] or token["token_id"]
            print(f"            {name:24} {window['trades']:7,} trades  "
                  f"{window['volume_usd']} USD")  # fmt: skip
        service.feed_live()
        say("live feed of new trades started")
    stack.publish(service.addresses(), service.pids())
    print(
        f"\nDashboard {service.web_url}/\n"
        f"REST      {service.web_url}{demo.OVERVIEW}\n"
        f"WebSocket {service.web_url.replace('http', 'ws', 1)}/ws\n"
        f"Admin     {service.web_url}/admin/ as {demo.ADMIN_NAME}; the password is in\n"
        f"          {service.admin_password_file}\n"
        f"Metrics   {service.metrics_url}, of the archiver {service.archiver_metrics_url}\n"
        f"Logs      {stack.directory / 'log'}",
        *played,
        f"\n{service.curl()}",
        sep="\n",
        flush=True,
    )


def _choose(options: Options, say: Steps) -> dict[str, int]:
    """Choose a port for each part: the requested one, else the default, else the next free one."""
    chosen = {}
    for name, default in default_ports(options.engines).items():
        asked = options.ports.get(name)
        if asked is not None:
            chosen[name] = asked or ports.free_port()
            # Engines check their ports themselves when they start.
            if options.service and name in _OF_SERVICE and not ports.is_free(chosen[name]):
                raise PortInUse(name, chosen[name])
            continue
        chosen[name] = ports.next_free(default)
        if chosen[name] != default and (options.service or name not in _OF_SERVICE):
            say(f"{name}: port {default} is in use, so {chosen[name]} is taken")
    return chosen


def _stop_on_signals() -> None:
    """Stop in order on the first signal; exit immediately on the second, so the watchdog kills."""
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def immediately(number: int, _: FrameType | None) -> None:
        os._exit(128 + number)

    def orderly(_number: int, _: FrameType | None) -> None:
        for number in watched:
            signal.signal(number, immediately)
        raise KeyboardInterrupt

    for number in watched:
        signal.signal(number, orderly)
