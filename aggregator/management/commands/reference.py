"""`manage.py reference`: generates the reference pages of docs/ from the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from aggregator.management.reference import PAGES

_ROOT: Final = Path(__file__).parents[3]


class Command(BaseCommand):
    """Writes or checks the pages."""

    help = (
        "Writes docs/configuration.md from the settings and docs/metrics.md from the metrics. With "
        "--check nothing is written, and the exit status is 1 if a page is not up to date."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add `--check`."""
        parser.add_argument("--check", action="store_true", help="compare, write nothing")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Write pages that differ. Raises CommandError if --check finds a difference."""
        for name, text_of in PAGES.items():
            page, text = _ROOT / name, text_of()
            if page.exists() and page.read_text(encoding="utf-8") == text:
                continue
            if options["check"]:
                raise CommandError(f"{name} is not up to date: run manage.py reference")
            page.write_text(text, encoding="utf-8")
            self.stdout.write(f"wrote {name}")
