"""`manage.py ensure_topology`: creates the Kafka topics and the tables of the archive."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.schema import ensure_schema
from aggregator.member.topics import ensure_sources_topic, ensure_topics
from aggregator.runtime.config import Config
from aggregator.runtime.errors import SwapsError


class Command(BaseCommand):
    """Does as a separate step what run_aggregator and run_archiver do at their start."""

    help = (
        "Creates the Kafka topics (KAFKA_BOOTSTRAP) and the tables in ClickHouse (CLICKHOUSE_URL; "
        "skipped if empty), and sets the lifetimes ARCHIVE_HOT, ARCHIVE_KEEP and "
        "ARCHIVE_DAILY_KEEP. Existing topics and tables do not change. Repeated or concurrent runs "
        "do no harm. Exit status 1 and one line if it fails."
    )
    requires_system_checks = ()

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Create what is missing, and print what was created."""
        config: Config = settings.SWAPS
        try:
            self._say("topics", ensure_topics(config) + ensure_sources_topic(config))
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
