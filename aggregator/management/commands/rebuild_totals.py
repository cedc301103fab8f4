"""`manage.py rebuild_totals`: the candles and totals of a day, made again from its rows."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from aggregator.clickhouse.repair.totals import rebuild_day
from aggregator.management.archive_day import add_day, archive


class Command(BaseCommand):
    """One UTC day."""

    help = (
        "Makes the rows of candles_1m and daily_token_agg of one UTC day again from raw_swaps, as "
        "after a backfill of lost rows. Stop the archivers first. May be run again after any "
        "failure; verify_archive says whether the three tables agree."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """The day."""
        add_day(parser)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Rebuild. Raises CommandError where it cannot."""
        with archive() as clickhouse:
            rows = rebuild_day(clickhouse, options["day"])
        self.stdout.write(f"{options['day']}: candles and totals made again of {rows:,} rows")
