"""The `--day` option and the ClickHouse connection of commands about one UTC day of the archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.management.times import utc_day
from aggregator.runtime.config import Config
from aggregator.runtime.errors import SwapsError

# Longer than the server lets a query over a whole day run.
_RECEIVE_S: Final = 1_900


def add_day(parser: CommandParser) -> None:
    """Add the option `--day`, which holds a `date`."""
    parser.add_argument(
        "--day",
        required=True,
        metavar="YYYY-MM-DD",
        type=utc_day,
        help="the UTC day, or 'today' or 'yesterday'",
    )


@contextmanager
def archive() -> Iterator[ClickHouseClient]:
    """Open a connection for long queries. Raises every SwapsError of the body as CommandError."""
    config: Config = settings.SWAPS
    if not config.clickhouse_url:
        raise CommandError("CLICKHOUSE_URL is empty: this deployment has no archive")
    clickhouse = ClickHouseClient(config.clickhouse_url, receive_s=_RECEIVE_S)
    try:
        yield clickhouse
    except SwapsError as error:
        raise CommandError(str(error)) from error
    finally:
        clickhouse.close()
