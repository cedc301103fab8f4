"""`python -m infra.chain`: run the demo, or only the traders."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import msgspec

from infra.chain import packages
from infra.chain.demo import run_demo
from infra.chain.rpc import Rpc
from infra.chain.traders import Traders, trade
from infra.chain.world import World, attach
from infra.embedded.demo import REPOSITORY
from infra.embedded.errors import EmbeddedError


def main(arguments: list[str]) -> int:
    """Run the command that the arguments name and return the exit status."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "run":
            return run_demo(given.dir.absolute())
        world = msgspec.json.decode(given.world.read_bytes(), type=World)
        with Rpc(given.port) as rpc:
            deployed = attach(world, packages.npm_directory())
            trade(Traders(rpc, deployed, random.Random(given.seed)), _say)
    except EmbeddedError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.chain",
        description="A chain on this machine with real Uniswap contracts, and its source.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="engines, service, chain, traders and source")
    run.add_argument(
        "--dir",
        type=Path,
        default=REPOSITORY / "var" / "chain",
        help="data, logs and stack.env (default: var/chain in the repository)",
    )
    trade = commands.add_parser("trade", help="only trade, on a chain that runs")
    trade.add_argument("port", type=int, help="the node's port")
    trade.add_argument("world", type=Path, help="the file that `run` wrote about the contracts")
    trade.add_argument("--seed", type=int, default=None, help="repeat the same draws")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
