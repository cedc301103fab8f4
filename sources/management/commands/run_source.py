"""`manage.py run_source`: brings the swaps of a chain or an exchange into Kafka."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.core.management.base import DjangoHelpFormatter as HelpFormatter

from aggregator.contracts.sources import SourceStatus
from aggregator.member.topics import ensure_sources_topic, ensure_topics
from aggregator.runtime.config import Config
from aggregator.runtime.errors import ConfigError
from aggregator.runtime.health import Health
from aggregator.runtime.process import ProcessCommand
from sources.chain_config import ChainConfig
from sources.config import AnySource
from sources.description import described
from sources.dry_run import ForgetfulJournal, PrintingSink
from sources.kafka import ports_on_kafka
from sources.options import EXAMPLES, add_options, source_of
from sources.ports import SourceJournal
from sources.process import ClosingSink, OpenPorts, Show, run_source
from sources.progress import REWRITE, SourceProgress


class _ExamplesKept(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps Django's order of options, and the epilog unchanged."""


class Command(ProcessCommand):
    """The source process."""

    service = "swaps-source"
    help = "Brings live swaps of a chain or an exchange into Kafka, each exactly once."

    def add_arguments(self, parser: CommandParser) -> None:
        """See `sources.options`."""
        parser.formatter_class = _ExamplesKept
        parser.epilog = EXAMPLES
        add_options(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the settings for `--check`, beside a source that runs; else run."""
        if not options["check"]:
            super().handle(*args, **options)
            return
        try:
            self.stdout.write(described(source_of(options, os.environ)))
        except ConfigError as error:
            raise CommandError(str(error)) from None

    def run(self, config: Config, stop: threading.Event, health: Health, **options: Any) -> None:
        """Read the source until `stop` is set or its last block is sent."""
        source = source_of(options, os.environ)
        if options["dry_run"]:
            _log_to_stderr()
        show = _progress_on(source) if sys.stderr.isatty() else _nothing
        ports = _ports(config, source, options["dry_run"])
        nats_url = "" if options["dry_run"] else config.nats_url
        try:
            run_source(source, ports, stop, health=health, show=show, nats_url=nats_url)
        except BrokenPipeError:
            # The reader of a dry run, such as `head`, has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _ports(config: Config, source: AnySource, dry_run: bool) -> OpenPorts:
    if dry_run:
        return lambda _note: (ForgetfulJournal(), PrintingSink(sys.stdout.buffer))

    def on_kafka(note: Callable[[str], None]) -> tuple[SourceJournal, ClosingSink]:
        ensure_topics(config)
        ensure_sources_topic(config)
        return ports_on_kafka(config, source.name, note, instance_id=config.kafka_instance_id)

    return on_kafka


def _progress_on(source: AnySource) -> Show:
    progress = SourceProgress(source.to_block if isinstance(source, ChainConfig) else None)

    def show(status: SourceStatus) -> None:
        sys.stderr.write(f"{REWRITE}{progress.line(status)}")
        sys.stderr.flush()

    return show


def _nothing(_status: SourceStatus) -> None:
    """Show nothing: the log and the metrics tell."""


def _log_to_stderr() -> None:
    """Leave stdout to the events of a dry run."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)
