"""`manage.py doctor`: check a whole installation and say what to fix."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from console.doctor import clickhouse, environment, homes, kafka, nats, redis, site, sources
from console.doctor.finding import Check, Finding

_CHECKS: Final[Sequence[Check]] = (
    site.check_settings,
    environment.check,
    kafka.check,
    homes.check,
    sources.check,
    redis.check,
    nats.check,
    clickhouse.check,
    site.check_keys,
    site.check_database,
)


class Command(BaseCommand):
    """Runs every check in parallel; changes nothing."""

    help = (
        "Check an installation with the settings of this environment: settings and misspelt names "
        "of settings, Kafka (brokers, topics, partitions, retention, the bound of record "
        "timestamps, KAFKA_PARTITIONER against the last 1,000 records, a process for each source), "
        "Redis (version, eviction off, append-only file on), NATS, the version and settings of the "
        "running aggregators, "
        "ClickHouse (version, tables, schema, storage policy), the room on disks, the keys for "
        "tokens, the admin's database, and the clocks against this machine's. Each finding is a "
        "line of OK, WARN or FAIL, with the fix after an arrow. It changes nothing. Exit "
        "status 1 if anything is FAIL, 2 if the settings themselves have faults."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the command line."""
        parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run all checks together: an engine that is down must not delay the others."""
        # Log lines go to stdout too and would break the report for programs.
        logging.disable(logging.CRITICAL)
        with ThreadPoolExecutor(len(_CHECKS)) as pool:
            asked = [pool.submit(check, settings.SWAPS) for check in _CHECKS]
            found = [finding for future in asked for finding in future.result()]
        failed = sum(finding.level == "FAIL" for finding in found)
        if options["json"]:
            report = {"healthy": not failed, "findings": found}
            self.stdout.write(msgspec.json.encode(report).decode())
        else:
            for finding in found:
                self.stdout.write(_line(finding))
            self.stdout.write(_summary(found))
        if failed:
            sys.exit(1)


def _line(finding: Finding) -> str:
    line = f"{finding.level:<4}  {finding.what}: {finding.said}"
    return f"{line}\n      -> {finding.fix}" if finding.fix else line


def _summary(found: Sequence[Finding]) -> str:
    counts = {level: sum(each.level == level for each in found) for level in ("OK", "WARN", "FAIL")}
    return ", ".join(f"{count} {level}" for level, count in counts.items())
