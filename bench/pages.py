"""The CPU cost of requests without a token on a web node: dashboard, static files, 404s, probes.

    python -m bench.pages [--requests 1000]

Runs one Daphne with its Redis and NATS, with the limits raised, and one caller on one connection.
A cost is the node's CPU time during a run of requests, minus its idle CPU time for as long,
divided by the number of requests. The last line is one JSON object: milliseconds of CPU.
"""

from __future__ import annotations

import argparse
import re
import time
from typing import Any, Final

import httpx

from bench import command
from bench.cpu import cpu_seconds
from bench.rest import Node
from bench.service import WrongResult, say

_IDLE_S: Final = 4.0
_WARM: Final = 20
_TOKENS: Final = 100
_PAGES: Final = {
    "page": ("/", 200),
    "token_page": ("/tokens/ethereum:0xaa", 200),
    "module": ("page/main.js", 200),
    "chart_library": (
        "vendor/lightweight-charts/lightweight-charts.standalone.production.mjs",
        200,
    ),
    "not_found": ("/wp-login.php", 404),
    "healthz": ("/healthz", 200),
    "admin_login": ("/admin/login/", 200),
}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the CPU time of each kind of request, in milliseconds."""
    with Node(_TOKENS) as node, httpx.Client(base_url=f"http://127.0.0.1:{node.port}") as client:
        pid = node.process.pid
        idle = _used(pid, lambda: time.sleep(_IDLE_S)) / _IDLE_S
        say(f"idle: {idle * 100:.1f} % of a core")
        found = re.search(r'src="([^"]+)page/main\.js"', client.get("/").text)
        base = found[1] if found else "/static/"
        result: dict[str, Any] = {"requests": options.requests}
        for name, (path, status) in _PAGES.items():
            address = path if path.startswith("/") else base + path

            def ask(count: int, address: str = address, status: int = status) -> None:
                for _ in range(count):
                    answer = client.get(address)
                    if answer.status_code != status:
                        raise WrongResult(f"{address}: {answer.status_code}")

            ask(_WARM)
            begun = time.monotonic()
            used = _used(pid, lambda ask=ask: ask(options.requests))
            used -= idle * (time.monotonic() - begun)
            result[f"{name}_cpu_ms"] = round(max(0.0, used) / options.requests * 1_000, 2)
            say(f"{name}: {result[f'{name}_cpu_ms']} ms")
    return result


def _used(pid: int, work: Any) -> float:
    before = cpu_seconds(pid)
    work()
    after = cpu_seconds(pid)
    if before is None or after is None:
        raise WrongResult("the node is gone")
    return after - before


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.pages", description="CPU of pages and files")
    parser.add_argument("--requests", type=int, default=1_000, help="requests of each kind")
    command.main(parser, run)


if __name__ == "__main__":
    main()
