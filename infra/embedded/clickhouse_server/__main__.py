"""`python -m infra.embedded.clickhouse_server`: serve one directory until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from infra.embedded.clickhouse_server.connection import ServerAccount
from infra.embedded.clickhouse_server.server import Server
from infra.embedded.clickhouse_server.session import ChdbEngine

_STOP_WITHIN_S = 5
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}


def main() -> int:
    """Serve until a stop signal arrives; return the exit status."""
    given = _parser().parse_args()
    # before any other thread starts, because threads inherit the mask
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    given.data.mkdir(parents=True, exist_ok=True)
    place = str(given.data)
    if given.config:
        place += f"?config-file={given.config}"
    # not an argument: every user of the machine can list command lines
    account = ServerAccount(given.user, os.environ.get("CLICKHOUSE_PASSWORD", ""))
    engine = ChdbEngine(place)
    server = Server(engine, account, given.host, given.port, given.max_connections)
    thread = threading.Thread(target=server.serve, name="accept", daemon=True)
    thread.start()
    print(f"serving on {given.host}:{given.port}", flush=True)
    stopped = signal.sigwait(_STOP_SIGNALS)
    print(f"signal {stopped}: stopping", flush=True)
    server.stop(_STOP_WITHIN_S)
    engine.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.embedded.clickhouse_server", description=__doc__
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the directory of the tables")
    parser.add_argument("--config", type=Path, help="config.xml as ClickHouse's server takes it")
    parser.add_argument("--user", default="default", help="password: CLICKHOUSE_PASSWORD")
    parser.add_argument("--max-connections", type=int, default=100)
    return parser


if __name__ == "__main__":
    sys.exit(main())
