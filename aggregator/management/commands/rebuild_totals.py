"""`manage.py rebuild_totals`: the candles and totals of a day, made again from its rows."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from aggregator.config import Config
from aggregator.errors import SwapsError
from aggregator.management.times import utc_day
from aggregator.stores.clickhouse.connection import ClickHouse
from aggregator.stores.clickhouse.totals import rebuild_day

_RECEIVE_S = 1_900


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
        parser.add_argument(
            "--day",
            required=True,
            metavar="YYYY-MM-DD",
            type=utc_day,
            help="the UTC day, or 'today' or 'yesterday'",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Rebuild. Raises CommandError where it cannot."""
        config: Config = settings.SWAPS
        if not config.clickhouse_url:
            raise CommandError("CLICKHOUSE_URL is empty: this deployment has no archive")
        clickhouse = ClickHouse(config.clickhouse_url, receive_s=_RECEIVE_S)
        try:
            rows = rebuild_day(clickhouse, options["day"])
        except SwapsError as error:
            raise CommandError(str(error)) from error
        finally:
            clickhouse.close()
        self.stdout.write(f"{options['day']}: candles and totals made again of {rows:,} rows")
