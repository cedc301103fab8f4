"""`manage.py feed`: publishes recorded or synthetic swaps to Kafka, with progress.

Wiring only: this module reads the options, builds the stream of records, and runs it through the
producer.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.management.base import DjangoHelpFormatter as HelpFormatter

from aggregator.contracts.units import DAY_MS
from aggregator.feed import days, synthetic, tape
from aggregator.feed.options import EXAMPLES, add_options, faults_of
from aggregator.feed.producer import Feeder, feed_producer
from aggregator.feed.progress import FeedProgress
from aggregator.feed.stream import Pacer, Record, at_rate, at_speed, with_repeats
from aggregator.member.topics import ensure_topics
from aggregator.producing.producer import SwapProducer
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, SwapsError


class _ExamplesKept(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps Django's order of options, and the epilog unchanged."""


class Command(BaseCommand):
    """See the help text; the exit status is 0 only if every event was delivered."""

    help = "Publish swaps to Kafka: recorded ones from files, or synthetic ones."
    requires_system_checks: list[str] = []  # noqa: RUF012  (Django's own spelling of the attribute)

    def add_arguments(self, parser: CommandParser) -> None:
        """See `aggregator.feed.options`."""
        parser.formatter_class = _ExamplesKept
        parser.epilog = EXAMPLES
        add_options(parser)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Feed until the events end or a signal comes. Raises CommandError on failure."""
        if faults := faults_of(options):
            raise CommandError("\n".join(faults))
        try:
            self._feed(options)
        except SwapsError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("interrupted before anything was sent") from None

    def _feed(self, options: dict[str, Any]) -> None:
        if options["seed"] is None:
            options["seed"] = secrets.randbits(32)
        recording = None if options["synthetic"] else tape.Tape(options["files"])
        publisher = feed_producer(settings.SWAPS)
        _require_topic(publisher, settings.SWAPS, create=options["create_topic"])
        progress = FeedProgress(
            write=lambda text: self.stderr.write(text, style_func=str, ending=""),
            terminal=self.stderr.isatty(),
            clock=time.monotonic,
            share=lambda: _share(options, recording, progress.events - progress.repeats),
            queue=publisher.queued,
        )
        feeder = Feeder(settings.SWAPS, publisher, progress)
        source = _synthetic(options) if recording is None else _recorded(options, recording)

        def caught_up() -> None:
            feeder.settle()
            progress.caught_up()

        try:
            with _ended_by_signal(feeder.stop):
                feeder.run(_paced(options, source, feeder, caught_up))
        finally:
            note = f"seed {options['seed']}" if recording is None else ""
            progress.finish(publisher.failed, note)
        if publisher.failed:
            raise CommandError(
                f"not delivered: {publisher.failed:,}; the first: {publisher.first_failure}"
            )


def _require_topic(publisher: SwapProducer, config: Config, *, create: bool) -> None:
    if publisher.topic_exists():
        return
    if not create:
        raise Fatal(
            f"topic {config.kafka_topic} (KAFKA_TOPIC) does not exist at "
            f"{config.kafka_bootstrap}: run the aggregator first, which makes it, "
            "or give --create-topic"
        )
    ensure_topics(config)


def _recorded(options: dict[str, Any], recording: tape.Tape) -> Iterator[Record]:
    if options["continue"]:
        return _continued(options, recording)
    if options["live"]:
        run = secrets.token_hex(8)

        def play(lines: Any, turn: int) -> Iterator[Record]:
            return tape.relived(lines, f"{run}:{turn}", wall_ms)

        records = tape.endless(recording, play) if options["loop"] else play(recording.lines(), 0)
    elif options["shift_to_now"]:
        records = tape.shifted(recording.lines(), wall_ms() - recording.newest())
    else:
        records = tape.recorded(recording.lines())
    return islice(records, options["limit"])


def _continued(options: dict[str, Any], recording: tape.Tape) -> Iterator[Record]:
    since = options["since"]
    if since is None:
        since = wall_ms() - DAY_MS
    return days.Days(recording.lines(), options["origin"]).events(since, options["until"])


def _synthetic(options: dict[str, Any]) -> Iterator[Record]:
    shape = synthetic.Shape(tokens=options["tokens"], zipf=options["zipf"], seed=options["seed"])
    if options["span"] is None:
        times = synthetic.present(options["events"], wall_ms)
    else:
        times = synthetic.spread(
            options["events"],
            wall_ms() if options["end"] is None else options["end"],
            options["span"],
            options["jitter"],
            options["seed"],
        )
    return synthetic.swaps(shape, times)


def _paced(
    options: dict[str, Any],
    records: Iterator[Record],
    pacer: Pacer,
    caught_up: Callable[[], object],
) -> Iterator[Record]:
    if options["duplicates"]:
        records = with_repeats(records, options["duplicates"], options["seed"])
    if options["continue"]:
        return days.as_they_happen(records, pacer, wall_ms, caught_up)
    if options["rate"] is not None:
        return at_rate(records, options["rate"], pacer)
    if options["speed"] is not None:
        return at_speed(records, options["speed"], pacer)
    return records


def _share(options: dict[str, Any], recording: tape.Tape | None, fresh: int) -> float | None:
    total: int | None = options["events"] or options["limit"]
    if total is not None:
        return min(1.0, fresh / total)
    endless = options["loop"] or options["continue"]
    return None if recording is None or endless else recording.share()


@contextmanager
def _ended_by_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM; a second signal ends the process immediately."""
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in watched}

    def on_signal(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    for number in watched:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
