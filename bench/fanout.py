"""Fan-out of patches on NATS to many WebSocket clients: throughput, delay and CPU cost.

    python -m bench.fanout [--clients 2000] [--peer daphne|uvicorn|group_send|centrifuge]

50 tokens change every 100 ms; each client subscribes to 5 of them with a JWT of a separate
subject. The delay is measured on one machine, from the instant at which a patch was due at its
owner to its arrival at the client. Two peers do the same work without authentication and NATS:
`group_send` is Channels over channels-redis on Daphne, `centrifuge` is the Go library on one core.
The client is bench/wsload (Go). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from api.auth.demo_issuer import ensure_keys, issue
from bench import command
from bench.service import Logged, WrongResult, say
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "var" / "bench"
TOKENS, EACH, EVERY_MS = 50, 5, 100
CLIENTS_A_SUBJECT = 5
MOST_S = 600


class Peer:
    """A server under load: its processes, and the options of a client that connects to it."""

    def __init__(self, stack: Stack, options: argparse.Namespace) -> None:
        self.stack = stack
        self.options = options
        self.port = free_port()
        self.pids: dict[str, int] = {}
        self.env = {
            **os.environ,
            **stack.env(),
            "ISSUER_DIR": str(stack.directory / "issuer"),
            "JWT_PUBLIC_KEY_FILE": str(stack.directory / "issuer" / "public.pem"),
            "DJANGO_SECRET_KEY": "of-a-benchmark",
            "LOG_LEVEL": "warning",
            "RATE_LIMIT_IP": "1000000",
            "RATE_BURST_IP": "1000000",
        }

    def launch(self, name: str, *arguments: str | Path, **env: str) -> Logged:
        """Start one process of the peer."""
        process = Logged(name, self.stack.directory / f"{name}.log", self.stack.guard)
        process.launch([str(each) for each in arguments], self.env | env, cwd=ROOT)
        self.pids[name] = process.pid
        return process

    def serves(self, path: str, wanted: int) -> bool:
        """Return whether the server answers with that status."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}").status_code == wanted
        except httpx.TransportError as error:
            raise ConnectionError(str(error)) from error


def start_ours(peer: Peer, server: str) -> list[str]:
    """Start a web node and an owner that publishes."""
    app = "swapsite.asgi:application"
    port = str(peer.port)
    if server == "daphne":
        arguments = ["daphne", "-b", "127.0.0.1", "-p", port, "--no-server-name", app]
    else:
        arguments = ["uvicorn", "--host", "127.0.0.1", "--port", port, "--log-level", "warning"]
        arguments += ["--no-access-log", "--ws-per-message-deflate", "false", app]
    lines = _tokens(peer)
    web = peer.launch("server", sys.executable, "-m", *arguments)
    nats = peer.stack.nats
    peer.pids["nats"] = nats.pid
    peer.launch(
        "publisher", sys.executable, "-m", "bench.owner", nats.url, str(TOKENS), str(EVERY_MS)
    )
    web.wait_ready(lambda: peer.serves("/readyz", 200))
    tokens = ",".join(f'"ethereum:0x{{i*{EACH}+{k}%{TOKENS}}}"' for k in range(EACH))
    return [
        *("-header", "Authorization: Bearer {line}", "-lines", str(lines)),
        *("-send", f'{{"method":"subscribe","channel":"token_stats","tokens":[{tokens}]}}'),
        *("-ts-field", "as_of", "-seq-field", "seq", "-key-field", "token"),
    ]


def _tokens(peer: Peer) -> Path:
    """Write a file with one JWT per line, one for each subject."""
    key = ensure_keys(peer.stack.directory / "issuer")
    subjects = math.ceil(peer.options.clients / CLIENTS_A_SUBJECT)
    lines = [
        issue(
            key,
            subject=f"bench-{number}",
            issuer="swaps-demo",
            audience="swaps",
            scope="stats:read ws:connect",
            issued_at=int(time.time()),
            ttl_ms=3_600_000,
        )
        for number in range(subjects)
    ]
    file = peer.stack.directory / "tokens"
    file.write_text("\n".join(lines))
    return file


def start_group_send(peer: Peer) -> list[str]:
    """Start the peer that uses Channels groups over Redis, one group per token."""
    module = "bench.group_send"
    arguments = ["daphne", "-b", "127.0.0.1", "-p", str(peer.port), "-v", "0"]
    web = peer.launch("server", sys.executable, "-m", *arguments, f"{module}:application")
    peer.pids["redis"] = peer.stack.redis.pid
    web.wait_ready(lambda: peer.serves("/", 404))
    peer.launch("publisher", sys.executable, "-m", module, str(TOKENS), str(EVERY_MS))
    tokens = ",".join(f"{{i*{EACH}+{k}%{TOKENS}}}" for k in range(EACH))
    return [
        *("-send", f'{{"tokens":[{tokens}]}}'),
        *("-ts-field", "as_of", "-seq-field", "seq", "-key-field", "token_id"),
    ]


def start_centrifuge(peer: Peer) -> list[str]:
    """Start the Go library, which publishes in the same process, with messages of our size."""
    web = peer.launch(
        "server", built("centrifuge"), "-port", str(peer.port), "-size", "2000", GOMAXPROCS="1"
    )
    web.wait_ready(lambda: peer.serves("/", 404))
    channels = [f"topic-{{i*{EACH}+{k}%{TOKENS}}}" for k in range(EACH)]
    arguments = ["-send", '{"id":1,"connect":{}}', "-reply", "{}=>{}"]
    for number, channel in enumerate(channels, 2):
        arguments += ["-send", f'{{"id":{number},"subscribe":{{"channel":"{channel}"}}}}']
    fields = {"-ts-field": "ts", "-seq-field": "s", "-key-field": "t"}
    for flag, name in fields.items():
        arguments += [flag, f"push.pub.data.{name}"]
    return arguments


def built(name: str) -> Path:
    """Compile bench/NAME with Go and return the program's path."""
    program = BUILT / name
    if shutil.which("go") is None:
        raise WrongResult("the load client is written in Go: install Go 1.24 or newer")
    BUILT.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-o", program, "."], cwd=ROOT / "bench" / name, check=True)
    return program


def load(peer: Peer, arguments: list[str]) -> dict[str, Any]:
    """Run the clients and return their report."""
    options = peer.options
    report = peer.stack.directory / "report.json"
    for name, pid in peer.pids.items():
        arguments += ["-pid", f"{name}={pid}"]
    subprocess.run(
        [
            *(built("wsload"), "-url", f"ws://127.0.0.1:{peer.port}/ws", "-q", "-o", report),
            *("-n", str(options.clients), "-rate", str(options.rate), "-sample", "1/5"),
            *("-warmup", f"{options.warm_up}s", "-d", f"{options.seconds}s", *arguments),
            *("-readbuf", "16384"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=MOST_S,
    )
    loaded: dict[str, Any] = json.loads(report.read_text())
    return loaded


def result(report: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures. Raises WrongResult if clients were lost or saw numbers go backwards.

    `repeats` are rows that were sent again because they became stale, as on an overloaded machine.
    """
    back = report["sequence"]["backward"]
    if report["errors"] or report["unexpected_disconnects"] or back:
        raise WrongResult(
            f"errors {report['errors']}, lost {report['unexpected_disconnects']}, back {back}"
        )
    due = options.clients * EACH * 1_000 / EVERY_MS
    processes = {each["name"]: each for each in report["processes"]}
    server = processes["server"]
    return {
        "peer": options.peer,
        "clients": options.clients,
        "delivered_per_s": round(report["messages_per_s"]),
        "delivered_share": round(report["messages_per_s"] / due, 4),
        "p50_ms": report["delay_ms"]["p50"],
        "p99_ms": report["delay_ms"]["p99"],
        "max_ms": report["delay_ms"]["max"],
        "cpu_s_per_million": server["cpu_s_per_million"],
        "rss_mb": server["rss_end_mb"],
        "repeats": report["sequence"]["repeats"],
        "rss_mb_per_1000": server.get("rss_mb_per_1000_connections"),
        "cores": {name: each["cpu_share"] for name, each in processes.items()},
        "client_cores": report["client"]["cpu_share"],
        "client_wake_lag_p99_ms": report["client"]["wake_lag_p99_ms"],
        "bytes_per_message": round(report["bytes_per_s"] / report["messages_per_s"]),
        "seconds": options.seconds,
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one peer."""
    built("wsload")
    with ExitStack() as closing:
        directory = BUILT / f"fanout-{os.getpid()}"
        closing.callback(shutil.rmtree, directory, ignore_errors=True)
        stack = closing.enter_context(Stack(directory, only=(Nats, Redis), report=say))
        peer = Peer(stack, options)
        if options.peer == "group_send":
            arguments = start_group_send(peer)
        elif options.peer == "centrifuge":
            arguments = start_centrifuge(peer)
        else:
            arguments = start_ours(peer, options.peer)
        return result(load(peer, arguments), options)


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.fanout", description=(__doc__ or "").strip())
    peers = ("daphne", "uvicorn", "group_send", "centrifuge")
    parser.add_argument("--peer", choices=peers, default="daphne")
    parser.add_argument("--clients", type=int, default=2_000)
    parser.add_argument("--rate", type=int, default=400, help="new connections a second")
    parser.add_argument("--warm-up", type=int, default=3, help="seconds before")
    parser.add_argument("--seconds", type=int, default=10, help="measured")
    command.main(parser, run)


if __name__ == "__main__":
    main()
