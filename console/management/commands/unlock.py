"""`manage.py unlock NAME`: an operator whose name was tried too often may log in again."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from redis.exceptions import RedisError

from console.login import unlock


class Command(BaseCommand):
    """Needs Redis, which all web nodes count in; not the database."""

    help = "Count the attempts to log in to the admin by NAME from zero."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The command line."""
        parser.add_argument("name", help="the operator's name")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run."""
        try:
            unlock(options["name"])
        except RedisError as error:
            raise CommandError(f"Redis cannot be used: {error}") from None
        self.stdout.write(f"{options['name']}: the attempts are counted from zero")
