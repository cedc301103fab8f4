"""`manage.py dead_letters list|show|replay`: shows dead letters, and sends them again."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from aggregator.dead_letters.preview import Originals, Outlook, outlooks
from aggregator.dead_letters.reader import DeadLetterLog, Letter, LetterPosition, replay
from aggregator.member.topics import count_partitions
from aggregator.runtime.config import Config
from aggregator.runtime.errors import SwapsError

log = structlog.get_logger(__name__)

_SHOWN_BYTES = 60


class Command(BaseCommand):
    """Has one subcommand each for the list, for one letter, and for the replay."""

    help = (
        "Messages that cannot be counted go to the dead-letter topic with their bytes and the "
        "reason. Once the cause is fixed (here: a rule is widened) they can be replayed: each is "
        "sent, with its original bytes, to the topic and partition that it came from, and is "
        "decoded again. A letter stays in the dead-letter topic; two replays count it once. A "
        "letter that would be refused again is skipped, because it would become a second dead "
        "letter. A letter that was cut is read from the topic that it came from."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """See `--help` of each subcommand."""
        commands = parser.add_subparsers(dest="command", required=True)
        listing = commands.add_parser("list", help="show the newest letters, one per line")
        listing.add_argument("--limit", type=int, default=20, metavar="N", help="at most N (20)")
        listing.add_argument("--reason", help="only those of this reason")
        listing.add_argument("--json", action="store_true", help="one JSON object per line")
        showing = commands.add_parser("show", help="show one complete letter")
        showing.add_argument("position", help="offset, or partition:offset, as `list` shows it")
        showing.add_argument("--raw", action="store_true", help="only its bytes, on stdout")
        replaying = commands.add_parser("replay", help="send letters to the topic they came from")
        replaying.add_argument("position", nargs="*", help="letters, as `list` shows them")
        replaying.add_argument("--all", action="store_true", help="every letter of the topic")
        replaying.add_argument("--reason", help="with --all: only those of this reason")
        replaying.add_argument(
            "--dry-run", action="store_true", help="send nothing; show which would be counted now"
        )
        replaying.add_argument(
            "--force", action="store_true", help="also letters that would be refused again"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run the subcommand. Raises CommandError if Kafka does not answer."""
        config: Config = settings.SWAPS
        run = {"list": self._list, "show": self._show, "replay": self._replay}
        try:
            with DeadLetterLog(config.kafka_bootstrap, config.kafka_dlq_topic) as letters:
                run[options["command"]](config, letters, options)
        except (SwapsError, ValueError) as error:
            raise CommandError(str(error)) from error

    def _list(self, _config: Config, letters: DeadLetterLog, options: dict[str, Any]) -> None:
        if options["limit"] < 1:
            raise CommandError("--limit: give 1 or more")
        held = sum(each.end - each.start for each in letters.extents())
        found = letters.newest(options["limit"], reason=options["reason"], look_at=held)
        for letter in found:
            self.stdout.write(_json(letter) if options["json"] else _line(letter))
        if not options["json"]:
            self.stderr.write(f"{len(found):,} shown of {held:,} in the topic", style_func=str)

    def _show(self, config: Config, letters: DeadLetterLog, options: dict[str, Any]) -> None:
        letter = _get(letters, options["position"])
        value = letter.value or b""
        if options["raw"]:
            sys.stdout.buffer.write(value)
            sys.stdout.buffer.flush()
            return
        said = {
            "position": str(letter.position),
            "at": _time(letter.at),
            "reason": letter.reason,
            "field": letter.field or "-",
            "detail": letter.detail,
            "came from": letter.source,
            "key": _text(letter.key),
            "bytes": f"{len(value):,}" if letter.value is not None else "none",
        }
        if letter.cut:
            said["bytes"] = f"the first {len(value):,} of {letter.cut_from_bytes:,}"
            said["sha256"] = letter.sha256
            with Originals(config.kafka_bootstrap) as originals:
                whole = originals.find(letter)
            said["original"] = "still in Kafka" if whole else "no longer in Kafka"
        for name, what in said.items():
            self.stdout.write(f"{name + ':':<11}{what}")
        self.stdout.write("")
        self.stdout.write(_text(letter.value))

    def _replay(self, config: Config, letters: DeadLetterLog, options: dict[str, Any]) -> None:
        if options["all"] == bool(options["position"]):
            raise CommandError("give positions, or --all")
        if options["reason"] and not options["all"]:
            raise CommandError("--reason goes with --all")
        if options["all"]:
            chosen = list(letters.all(reason=options["reason"]))
        else:
            chosen = [_get(letters, each) for each in dict.fromkeys(options["position"])]
        found = outlooks(chosen, config)
        if options["dry_run"]:
            for outlook in found:
                self.stdout.write(_preview(outlook))
            passing = sum(not outlook.refusal for outlook in found)
            self.stdout.write(f"{passing:,} of {len(found):,} would pass now")
            return
        force = options["force"]
        sent = [each.letter for each in found if each.sent(force=force)]
        skipped = [each for each in found if not each.sent(force=force)]
        for outlook in skipped:
            self.stderr.write(f"skipped {_preview(outlook)}", style_func=str)
        if sent:
            self._send(config, sent)
        self.stdout.write(f"{len(sent):,} letters replayed to {config.kafka_topic}")
        if skipped:
            self.stdout.write(
                f"{len(skipped):,} skipped: they would be refused again (--force sends those "
                "that have all of their bytes)"
            )

    def _send(self, config: Config, chosen: Sequence[Letter]) -> None:
        def progress(sent: int) -> None:
            last = sent == len(chosen)
            if self.stderr.isatty() or last:
                ending = "\n" if last else "\r"
                self.stderr.write(f"sent {sent:,} of {len(chosen):,}", str, ending)

        replay(
            chosen,
            bootstrap=config.kafka_bootstrap,
            source_topic=config.kafka_topic,
            partitions=count_partitions(config),
            progress=progress,
        )
        for letter in chosen:
            log.info(
                "dead_letter_replayed",
                position=str(letter.position),
                reason=letter.reason,
                topic=config.kafka_topic,
                by="manage.py",
            )


def _get(letters: DeadLetterLog, text: str) -> Letter:
    position = LetterPosition.parse(text)
    letter = letters.get(position)
    if letter is None:
        raise CommandError(f"there is no dead letter {position}; see `dead_letters list`")
    return letter


def _preview(outlook: Outlook) -> str:
    said = f"refused again: {outlook.refusal}" if outlook.refusal else "passes"
    return f"{outlook.letter.position!s:<8} {_text(said.encode())}"


def _line(letter: Letter) -> str:
    about = f"{letter.reason} {letter.field}".strip()
    start = _text((letter.value or b"")[:_SHOWN_BYTES])
    return f"{letter.position!s:<8} {_time(letter.at)}  {about:<28} {letter.source:<20} {start}"


def _json(letter: Letter) -> str:
    fields = msgspec.structs.asdict(letter)
    fields |= {"position": str(letter.position), "key": _text(letter.key)}
    return msgspec.json.encode(fields | {"value": _text(letter.value)}).decode()


def _text(data: bytes | None) -> str:
    """Render bytes on one line, escaped: a terminal must not obey what a stranger sent."""
    if data is None:
        return "none"
    text = data.decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _time(at_ms: int) -> str:
    return dt.datetime.fromtimestamp(at_ms / 1_000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
