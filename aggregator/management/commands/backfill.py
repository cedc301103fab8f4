"""`manage.py backfill`: archives the swaps of a time range that the archive lacks."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from aggregator.archiving.backfill import Backfill, BackfillProgress
from aggregator.management.times import instant_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import SwapsError


class Command(BaseCommand):
    """Runs over one time range of the log."""

    help = (
        "Reads the swaps with a Kafka timestamp in [--from, --to) again, and archives those that "
        "are missing in ClickHouse. Archived rows do not change, so the command may be repeated at "
        "any time. It skips offsets that the archivers have not reached. What it archives counts "
        "as late. It may run beside the archivers, which wait while it inserts. Do not run two "
        "backfills at the same time."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the range and `--dry-run`."""
        parser.add_argument(
            "--from",
            dest="since",
            required=True,
            type=instant_ms,
            help="begin: ISO 8601 (UTC unless it has a zone), or ms since the epoch",
        )
        parser.add_argument(
            "--to", dest="until", required=True, type=instant_ms, help="end, exclusive"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="report what is missing, change nothing"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run to the end of the range. Raises CommandError if it cannot."""
        config: Config = settings.SWAPS
        if not config.clickhouse_url:
            raise CommandError("CLICKHOUSE_URL is not set: this deployment has no archive")
        if options["since"] >= options["until"]:
            raise CommandError("--from must lie before --to")
        last: dict[int, BackfillProgress] = {}

        def report(progress: BackfillProgress) -> None:
            last[progress.partition] = progress
            length = progress.end - progress.first
            done = 100 if not length else 100 * (progress.next_offset - progress.first) // length
            self.stderr.write(f"partition {progress.partition}: {done} %, {_counts(progress)}")

        try:
            backfill = Backfill(config, dry_run=options["dry_run"])
            try:
                backfill.run(options["since"], options["until"], report)
            finally:
                backfill.close()
        except SwapsError as error:
            raise CommandError(str(error)) from error
        total = BackfillProgress(-1, 0, 0, 0)
        for each in last.values():
            for name in ("seen", "there", "repeats", "undecodable", "archived"):
                setattr(total, name, getattr(total, name) + getattr(each, name))
        self.stdout.write(_counts(total, missing=options["dry_run"]))


def _counts(progress: BackfillProgress, *, missing: bool = False) -> str:
    return (
        f"{progress.seen} read, {progress.there} archived before, {progress.repeats} repeats, "
        f"{progress.undecodable} undecodable, {progress.archived} "
        f"{'missing' if missing else 'archived'}"
    )
