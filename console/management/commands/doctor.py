"""`manage.py doctor`: looks at a whole installation, and says what to fix."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from console.doctor import clickhouse, environment, kafka, nats, redis, site
from console.doctor.finding import Check, Finding

_CHECKS: Final[Sequence[Check]] = (
    site.check_settings,
    environment.check,
    kafka.check,
    redis.check,
    nats.check,
    clickhouse.check,
    site.check_keys,
    site.check_database,
)


class Command(BaseCommand):
    """Reads, never changes."""

    help = (
        "Checks an installation with the settings of this environment: settings and names that are "
        "nearly settings, Kafka (brokers, topics, partitions, retention), Redis (version, eviction "
        "off, append-only file on), NATS, the version and settings of the running aggregators, "
        "ClickHouse (version, tables, schema, storage policy), the room on disks, the keys for "
        "tokens, the admin's database, and the clocks against this machine's. Each finding is a "
        "line of OK, WARN or FAIL, with what to do behind an arrow. It changes nothing. Exit "
        "status 1 where anything is FAIL, 2 where the settings themselves have faults."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """The one option."""
        parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Look at everything at once: an engine that is down must not keep the others waiting."""
        # What the parts log goes to stdout too, where the report is read by programs.
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
