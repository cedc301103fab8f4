"""A game day: a fault a minute under load, and at the end every number must be right.

    make gameday MINUTES=30 RATE=2000 SOCKETS=300 SEED=7

Starts the embedded stack, two aggregators, an archiver and two web nodes, sends swaps, keeps
WebSocket clients connected, injects faults, and compares the windows, the archive, the candles and
every client with an oracle computed from the log as read back. Writes report.md, report.html and
timeline.svg. Exits with status 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.gameday.game import Game, play
from tests.gameday.plan import KINDS
from tests.gameday.report import write


def main() -> int:
    """Run a game day; see the module's docstring."""
    options = _parse()
    game = Game.of(options.seed, options.minutes, options.rate, options.sockets, options.every)
    if options.only:
        game = Game(**{**vars(game), "kinds": options.only})
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - begun:7.1f} s] {what}", flush=True)

    directory = options.dir or Path(tempfile.mkdtemp(prefix="gameday-"))
    say(
        f"seed {game.seed}: {game.minutes:g} min, {game.rate:g} swaps/s over {game.tokens} tokens, "
        f"{game.sockets} sockets, {len(game.kinds)} faults; {directory}"
    )
    played = play(game, directory, say)
    for path in write(played, options.out):
        say(f"written: {path}")
    for wrong in played.wrong:
        say(f"WRONG: {wrong}")
    say("everything is right" if not played.wrong else f"{len(played.wrong)} things are wrong")
    return int(bool(played.wrong))


def _parse() -> argparse.Namespace:
    kinds = "\n".join(f"  {name:<22}{text}" for name, text in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.gameday",
        description=__doc__,
        epilog=f"faults:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=_above_zero, default=30.0, help="default 30")
    parser.add_argument("--rate", type=_above_zero, default=2000.0, help="swaps/s; default 2000")
    parser.add_argument("--sockets", type=_count, default=300, help="default 300")
    parser.add_argument("--seed", type=int, default=0, help="which faults, in which order")
    parser.add_argument("--every", type=_above_zero, default=60.0, help="s between faults; 60")
    parser.add_argument("--only", type=_kinds, help="only these faults, such as zombie,poison")
    parser.add_argument(
        "--out", type=Path, default=Path("var/gameday"), help="directory of the report"
    )
    parser.add_argument(
        "--dir", type=Path, help="directory of data and logs; default: a temporary one"
    )
    return parser.parse_args()


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give a number above 0")
    return value


def _count(text: str) -> int:
    return int(_above_zero(text))


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := set(kinds) - set(KINDS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return kinds


if __name__ == "__main__":
    sys.exit(main())
