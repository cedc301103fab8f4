"""`manage.py rebuild_totals`: rebuilds the candles and totals of a day from its rows."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from aggregator.clickhouse.repair.totals import rebuild_day
from aggregator.management.archive_day import add_day, archive


class Command(BaseCommand):
    """Rebuilds one UTC day."""

    help = (
        "Rebuilds the rows of candles_1m and daily_token_agg of one UTC day from raw_swaps, for "
        "example after a backfill of lost rows. Stop the archivers first. The command may be "
        "repeated after any failure; verify_archive checks whether the three tables agree."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add `--day`."""
        add_day(parser)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Rebuild the day. Raises CommandError on failure."""
        with archive() as clickhouse:
            rows = rebuild_day(clickhouse, options["day"])
        self.stdout.write(f"{options['day']}: candles and totals made again of {rows:,} rows")
