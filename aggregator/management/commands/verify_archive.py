"""`manage.py verify_archive`: checks that the three tables of the archive agree on one UTC day."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandParser

from aggregator.clickhouse.repair.verify import Compared, verify_day
from aggregator.management.archive_day import add_day, archive


class Command(BaseCommand):
    """Exits with status 0 if they agree, 1 if they differ or could not be compared."""

    help = (
        "Compares raw_swaps (each row once, by its sign) with daily_token_agg and candles_1m over "
        "one UTC day, token by token and minute by minute, and prints every number that differs. "
        "Exit status 1 if there is a difference. A day that still receives writes may differ for a "
        "moment: run the command again before you act. docs/archive.md says how to repair a day."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """See `--help`."""
        add_day(parser)
        parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
        parser.add_argument(
            "--show", type=int, default=50, metavar="N", help="differences to print (50)"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Compare, print, exit."""
        with archive() as clickhouse:
            found = verify_day(
                clickhouse, options["day"], shown=max(0, options["show"]), progress=self._progress
            )
        if options["json"]:
            self.stdout.write(msgspec.json.encode(found).decode())
        else:
            self._print(found)
        if found.different:
            sys.exit(1)

    def _progress(self, done: int, steps: int) -> None:
        last = done == steps
        if self.stderr.isatty() or last:
            ending = "\n" if last else "\r"
            self.stderr.write(f"compared {done} of {steps} slices", style_func=str, ending=ending)

    def _print(self, found: Compared) -> None:
        for each in found.differences:
            self.stdout.write(
                f"{each.table} {each.chain}:{each.token} {each.at} {each.field}: "
                f"{_said(each.found)}, raw_swaps says {_said(each.expected)}"
            )
        hidden = found.different - len(found.differences)
        if hidden:
            self.stdout.write(f"and {hidden:,} more differences")
        verdict = f"{found.different:,} differences" if found.different else "no difference"
        self.stdout.write(
            f"{found.day}: {found.rows:,} rows, {found.token_days:,} tokens, "
            f"{found.candles:,} candles, {verdict}"
        )


def _said(value: str | None) -> str:
    return "nothing" if value is None else value
