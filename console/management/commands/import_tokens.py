"""`manage.py import_tokens`: import a CSV file into the token registry, as the admin's page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from console import registry_table as table
from console.registry_intake import import_csv


class Command(BaseCommand):
    """Imports all rows of the file, or none if one is wrong."""

    help = (
        "Add or change tokens of the registry from a CSV file. Its first line names columns: "
        f"{', '.join(table.COLUMNS)}; token_id must be among them, and a column that is absent "
        "changes nothing."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command line."""
        parser.add_argument("file", type=Path)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Import the file. Raises CommandError that names each row at fault."""
        try:
            imported = import_csv(options["file"].read_bytes())
        except OSError as error:
            raise CommandError(f"{options['file']} cannot be read: {error.strerror}") from error
        except table.BadTable as bad:
            raise CommandError("\n".join(bad.faults)) from bad
        self.stdout.write(f"{len(imported.added)} tokens added, {len(imported.edited)} changed")
