"""The command-line options of a feed, and which of them contradict each other.

Only parses options; opens nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from aggregator.runtime.config import duration_ms

EXAMPLES = """\
examples:
  feed day.ndjson.gz --shift-to-now --duplicates 0.01
        the recorded day, moved so that its newest event is now, with 1% of it sent twice
  feed day.ndjson.gz --speed 60
        one minute of the recording per second, with the recorded times
  feed --live day.ndjson.gz --rate 20 --loop
        the recorded trades as new trades that happen now, 20 per second, indefinitely
  feed day.ndjson.gz --continue
        the recorded day as the last 24 hours, then at its recorded pace, day after day
  feed --synthetic --rate 500 --tokens 2000
        generated trades, 500 per second, until Ctrl-C
  feed --synthetic --events 1000000 --span 3h --tokens 2000
        a million generated trades over the last 3 hours, as fast as possible

Files hold one JSON event per line, plain or gzip. A line that is not an event is sent unchanged,
without a key, and counted. KAFKA_BOOTSTRAP and KAFKA_TOPIC name the broker and the topic.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of the feed, grouped by source."""
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="recorded events")
    _add_recorded(parser.add_argument_group("recorded events"))
    _add_synthetic(parser.add_argument_group("synthetic events"))
    _add_common(parser.add_argument_group("both"))


def faults_of(options: dict[str, Any]) -> list[str]:
    """Return a sentence for each contradiction among the options."""
    made, files = options["synthetic"], bool(options["files"])
    endless = options["rate"] is None and options["events"] is None
    rules = [
        (made and files, "give either FILEs or --synthetic, not both"),
        (not made and not files, "give FILEs of events, or --synthetic"),
        (options["rate"] and options["speed"], "--rate and --speed are two paces: give one"),
        (options["live"] and options["rate"] is None, "--live needs --rate"),
        (options["live"] and options["speed"], "--live has new times: --rate, not --speed"),
        (options["live"] and options["shift_to_now"], "--live and --shift-to-now: give one"),
        (options["loop"] and not options["live"], "--loop needs --live, or all repeats would be "
         "duplicates"),
        (options["continue"] and any(options[name] for name in ("live", "speed", "rate",
         "shift_to_now", "limit")), "--continue has its own pace and times: it goes with none of "
         "--live, --speed, --rate, --shift-to-now and --limit"),
        (made and endless, "--synthetic needs --rate or --events"),
        (made and options["span"] is not None and options["events"] is None,
         "--span needs --events"),
        (made and options["span"] is None and options["end"] is not None, "--end needs --span"),
    ]  # fmt: skip
    for name in ("origin", "since", "until"):
        unfit = options[name] is not None and not options["continue"]
        rules.append((unfit, f"--{name} needs --continue"))
    for name in ("live", "speed", "shift_to_now", "loop", "limit", "continue"):
        rules.append((made and options[name], f"--{name.replace('_', '-')} is for FILEs"))
    for name in ("events", "span", "end"):
        unfit = not made and options[name] is not None
        rules.append((unfit, f"--{name} is for --synthetic"))
    return [sentence for broken, sentence in rules if broken]


def _add_recorded(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--speed", type=_above_zero, metavar="N", help="keep the recorded spacing, N times as fast"
    )
    group.add_argument(
        "--shift-to-now", action="store_true", help="move the newest event to now, keep the spacing"
    )
    group.add_argument(
        "--live",
        action="store_true",
        help="send the trades as new trades, with the time of sending and new transaction hashes; "
        "needs --rate",
    )
    group.add_argument("--loop", action="store_true", help="with --live: repeat indefinitely")
    group.add_argument(
        "--continue",
        action="store_true",
        help="repeat the day indefinitely, without jumps in prices: first all past trades as fast "
        "as possible, then each trade at its time",
    )
    group.add_argument(
        "--origin",
        type=_instant,
        metavar="TIME",
        help="with --continue: the time to which the first midnight of the recording is moved; the "
        "same origin gives the same events (default: its own date, so every trade keeps its time "
        "of day)",
    )
    group.add_argument(
        "--since", type=_instant, metavar="TIME", help="with --continue; default: 24 hours ago"
    )
    group.add_argument(
        "--until", type=_instant, metavar="TIME", help="with --continue; default: no end"
    )
    group.add_argument("--limit", type=_count, metavar="N", help="stop after N events of the files")


def _add_synthetic(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--synthetic", action="store_true", help="generate events")
    group.add_argument("--tokens", type=_count, default=2_000, metavar="N", help="default 2000")
    group.add_argument("--events", type=_count, metavar="N", help="how many (default: no end)")
    group.add_argument(
        "--zipf",
        type=_not_below_zero,
        default=1.1,
        metavar="S",
        help="skew of the trades over the tokens; default 1.1, 0 is even",
    )
    group.add_argument(
        "--span", type=_duration, metavar="3h", help="spread the event times over this long"
    )
    group.add_argument(
        "--end", type=_instant_or_now, metavar="TIME", help="end of the span: now, ms, or ISO 8601"
    )
    group.add_argument(
        "--jitter",
        type=_duration,
        default=20_000,
        metavar="20s",
        help="with --span: how far event times are out of order; default 20s",
    )


def _add_common(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--rate", type=_above_zero, metavar="N", help="events per second")
    group.add_argument(
        "--duplicates",
        type=_probability,
        default=0.0,
        metavar="0.01",
        help="send this share of the events twice, byte for byte, some events later",
    )
    group.add_argument(
        "--seed", type=int, metavar="S", help="same seed, same events; default: random"
    )
    group.add_argument(
        "--create-topic",
        action="store_true",
        help="create the topic, as the settings say, if it is missing",
    )


def _number(text: str, fits: Callable[[float], bool], wanted: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not fits(number):
        raise argparse.ArgumentTypeError(f"{text!r}: give {wanted}")
    return number


def _above_zero(text: str) -> float:
    return _number(text, lambda number: 0 < number < float("inf"), "a number above 0")


def _not_below_zero(text: str) -> float:
    return _number(text, lambda number: 0 <= number < 100, "a number from 0 to 100")


def _probability(text: str) -> float:
    return _number(text, lambda number: 0 <= number <= 1, "a share from 0 to 1")


def _count(text: str) -> int:
    return int(
        _number(text, lambda number: number >= 1 and number % 1 == 0, "a whole number from 1")
    )


def _duration(text: str) -> int:
    try:
        return duration_ms(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _instant_or_now(text: str) -> int | None:
    return None if text == "now" else _instant(text)


def _instant(text: str) -> int:
    try:
        return int(text) if text.isdigit() else round(_zoned(text).timestamp() * 1_000)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give ms since the epoch, or ISO 8601 with a zone"
        ) from error


def _zoned(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("no zone")
    return instant
