"""`manage.py checkin`: shows which archivers Redis waits for, or counts without them."""

from __future__ import annotations

import sys
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from aggregator.member.topics import count_partitions
from aggregator.redis.checkins import Checkins
from aggregator.redis.session import RedisSession
from aggregator.runtime.config import Config
from aggregator.runtime.errors import SwapsError

log = structlog.get_logger(__name__)


class Command(BaseCommand):
    """Shows the check-ins, or skips them."""

    help = (
        "After a restart of Redis nothing is counted until the archiver of each partition has "
        "checked in: it restores the markers that Redis lost. Without an option this command shows "
        "which partitions are missing (exit status 1 while one is). With --skip, swaps are counted "
        "without waiting: repeats of swaps from before the restart may then count again, in the "
        "windows and in the archive. The skip is logged, and the state is degraded until the "
        "archivers have checked in."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add `--skip`."""
        parser.add_argument("--skip", action="store_true", help="do not wait for the archivers")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Show or skip. Raises CommandError if an engine does not answer."""
        config: Config = settings.SWAPS
        if not config.clickhouse_url:
            raise CommandError("CLICKHOUSE_URL is not set: without an archive nothing waits")
        session = RedisSession(config.redis_url)
        checkins = Checkins(session, config.kafka_topic, config.marker_ttl_ms)
        try:
            session.connect()
            missing = checkins.missing(count_partitions(config))
            if options["skip"] and checkins.skip():
                log.warning("checkin_skipped", missing=missing)
                self.stdout.write(f"skipped; not checked in: partitions {missing}")
                return
        except SwapsError as error:
            raise CommandError(str(error)) from error
        finally:
            session.close()
        if not missing:
            self.stdout.write("every archiver has checked in")
            return
        self.stdout.write(f"not checked in: partitions {', '.join(map(str, missing))}")
        if not options["skip"]:
            sys.exit(1)
