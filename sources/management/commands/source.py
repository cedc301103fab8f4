"""`manage.py source list|show|reset`: what sources remember, and where one begins next."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any, Final, Literal

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from aggregator.runtime.config import Config
from aggregator.runtime.errors import SwapsError
from sources.evm.history import BEGIN, BeginEntry
from sources.journal import OWNER_KEY, SourceOwner
from sources.kafka import KafkaJournal
from sources.overview import SourceOverview, overview

# A process that was killed stays in its group for 6 s.
_OWN_S: Final = 30.0


class Command(BaseCommand):
    """Has one subcommand each for the list, for one source, and for a new begin."""

    help = (
        "A source keeps in the topic KAFKA_SOURCES_TOPIC how far it is and what it has sent. "
        "`list` shows every source, `show` one with its entries. `reset` makes an EVM source begin "
        "at another block when it starts next: it sends that block and all later ones. Blocks that "
        "were sent already are sent again, and count once."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """See `--help` of each subcommand."""
        commands = parser.add_subparsers(dest="command", required=True)
        listing = commands.add_parser("list", help="show the sources, one per line")
        listing.add_argument("--json", action="store_true", help="one JSON object per line")
        showing = commands.add_parser("show", help="show one source with its entries")
        showing.add_argument("name", help="the source, as `list` shows it")
        resetting = commands.add_parser("reset", help="let an EVM source begin at another block")
        resetting.add_argument("name", help="the source, as `list` shows it; it must not run")
        resetting.add_argument(
            "--from-block", required=True, type=_block, metavar="N", help="a number, or latest"
        )
        resetting.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run the subcommand. Raises CommandError if Kafka does not answer."""
        config: Config = settings.SWAPS
        run = {"list": self._list, "show": self._show, "reset": self._reset}
        try:
            run[options["command"]](config, options)
        except SwapsError as error:
            raise CommandError(str(error)) from error

    def _list(self, config: Config, options: dict[str, Any]) -> None:
        found = overview(config)
        for each in found:
            self.stdout.write(_json(each) if options["json"] else _line(each))
        if not found and not options["json"]:
            self.stderr.write("no source has run yet", style_func=str)

    def _show(self, config: Config, options: dict[str, Any]) -> None:
        source = _named(config, options["name"])
        self.stdout.write(_line(source))
        if (value := source.entries.get(OWNER_KEY)) is not None:
            since = msgspec.json.decode(value, type=SourceOwner).at / 1_000
            at = dt.datetime.fromtimestamp(since, dt.UTC).isoformat(timespec="seconds")
            self.stdout.write(f"last owner: {source.owner} since {at}")
        for key, value in sorted(source.entries.items()):
            if key != OWNER_KEY:
                self.stdout.write(f"{key}: {_shortened(value)}")

    def _reset(self, config: Config, options: dict[str, Any]) -> None:
        source, begin = _named(config, options["name"]), BeginEntry(options["from_block"])
        if source.kind == "-":
            raise CommandError(
                f"source {source.name} has not begun: give --from-block to run_source"
            )
        if source.kind != "evm":
            raise CommandError(
                f"source {source.name} reads an exchange: it goes on after the last trade of each "
                "symbol, and has no blocks"
            )
        if source.members:
            raise CommandError(
                f"source {source.name} runs ({source.owner}): stop run_source first. A process "
                "that was killed counts as running for 6 s"
            )
        self.stdout.write(_line(source))
        if not options["yes"] and not self._agreed(f"Begin at {begin.from_block} next? [y/N] "):
            raise CommandError("nothing was changed")
        asyncio.run(_write_begin(config, source.name, begin))
        self.stdout.write(f"source {source.name} begins at {begin.from_block} when it starts next")

    def _agreed(self, question: str) -> bool:
        try:
            return input(question).strip().lower() in {"y", "yes"}
        except EOFError:
            raise CommandError("give --yes where nobody can answer") from None


async def _write_begin(config: Config, name: str, begin: BeginEntry) -> None:
    """Own the source while it is changed, so that no process of it can start meanwhile."""
    journal = KafkaJournal(config, name)
    try:
        async with asyncio.timeout(_OWN_S):
            await journal.own()
            await journal.write({BEGIN: msgspec.json.encode(begin)})
    except TimeoutError:
        raise CommandError(
            f"source {name} has another owner, or Kafka does not answer: nothing was changed"
        ) from None
    finally:
        await journal.close()


def _named(config: Config, name: str) -> SourceOverview:
    found = {each.name: each for each in overview(config)}
    if name not in found:
        known = ", ".join(found) or "none; a source is known once it has run"
        raise CommandError(f"no source is called {name}. Known: {known}")
    return found[name]


def _block(text: str) -> int | Literal["latest"]:
    if text == "latest":
        return "latest"
    if not text.isdecimal():
        raise ValueError
    return int(text)


_block.__name__ = "block number (or latest)"  # argparse shows it


def _line(each: SourceOverview) -> str:
    runs = "stopped"
    if each.members:
        standby = f" and {each.members - 1} standing by" if each.members > 1 else ""
        runs = f"owned by {each.owner}{standby}"
    return f"{each.name}  {each.kind}  {runs}  {each.position}"


def _json(each: SourceOverview) -> str:
    fields = {name: value for name, value in each._asdict().items() if name != "entries"}
    return msgspec.json.encode(fields).decode()


def _shortened(value: bytes, most: int = 200) -> str:
    text = value.decode("utf-8", "replace")
    return text if len(text) <= most else f"{text[:most]}… ({len(value):,} bytes)"
