"""`manage.py unlock NAME`: let an operator log in again after too many attempts."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from redis.exceptions import RedisError

from console.login import unlock


class Command(BaseCommand):
    """Resets the counter in Redis; needs no database."""

    help = "Reset the count of attempts to log in to the admin as NAME."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command line."""
        parser.add_argument("name", help="the operator's name")

    def handle(self, *_: Any, **options: Any) -> None:
        """Reset the counter. Raises CommandError if Redis cannot be used."""
        try:
            unlock(options["name"])
        except RedisError as error:
            raise CommandError(f"Redis cannot be used: {error}") from None
        self.stdout.write(f"{options['name']}: the count of attempts is reset")
