"""`manage.py ensure_topology`: makes the Kafka topics and the archive's tables."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.schema import ensure_schema
from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import Config
from aggregator.runtime.errors import SwapsError


class Command(BaseCommand):
    """What run_aggregator and run_archiver do at start, as a step of its own."""

    help = (
        "Makes the Kafka topics (KAFKA_BOOTSTRAP) and the tables in ClickHouse (CLICKHOUSE_URL; "
        "skipped where that is empty), and sets the lifetimes ARCHIVE_HOT, ARCHIVE_KEEP and "
        "ARCHIVE_DAILY_KEEP. What is in place is left as it is; running it again, or twice at "
        "once, does no harm. Exit status 1 and one line where it cannot."
    )
    requires_system_checks = ()

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Make what is missing, and say what that was."""
        config: Config = settings.SWAPS
        try:
            self._say("topics", ensure_topics(config))
            if not config.clickhouse_url:
                self.stdout.write("archive: none, CLICKHOUSE_URL is empty")
                return
            clickhouse = ClickHouseClient(config.clickhouse_url)
            try:
                self._say("archive", ensure_schema(clickhouse, config))
            finally:
                clickhouse.close()
        except SwapsError as error:
            raise CommandError(str(error)) from error

    def _say(self, what: str, made: list[str]) -> None:
        self.stdout.write(f"{what}: {', '.join(made) if made else 'in place'}")
