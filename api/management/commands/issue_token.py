"""`manage.py issue_token`: print a token of the demo issuer, and nothing else, to stdout."""

from __future__ import annotations

import argparse
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from aggregator.runtime.config import duration_ms
from aggregator.runtime.errors import Fatal
from api.auth.demo_issuer import ensure_keys, issue
from api.auth.scopes import SCOPES


def _ttl(text: str) -> int:
    try:
        ttl_ms = duration_ms(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if ttl_ms < 1_000:
        raise argparse.ArgumentTypeError("give at least 1s")
    return ttl_ms


class Command(BaseCommand):
    """Signs with the key in ISSUER_DIR, which is generated if it is missing."""

    help = "Print a JWT signed by the demo issuer, and nothing else."
    # The command must work even if some part of the site is not configured.
    requires_system_checks: list[str] = []  # noqa: RUF012

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command line."""
        parser.add_argument("--sub", help="subject of the token")
        parser.add_argument("--ttl", type=_ttl, default="1h", help="lifetime, such as 30m or 1h")
        parser.add_argument(
            "--scope",
            default=" ".join(SCOPES),
            help="scopes separated by spaces; default: all, which are "
            + "; ".join(f"{scope} ({opens})" for scope, opens in SCOPES.items()),
        )
        parser.add_argument(
            "--chains", help="chains whose swaps the token may send, with spaces; default: all"
        )
        parser.add_argument("--aud", default=settings.SWAPS.jwt_audience, help="audience")
        parser.add_argument("--iss", default=settings.SWAPS.jwt_issuer, help="issuer")
        parser.add_argument(
            "--init-only", action="store_true", help="only generate the key pair, print nothing"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Print the token. Raises CommandError if it cannot be signed."""
        if not options["init_only"] and not (options["sub"] or "").strip():
            raise CommandError("--sub: name the subject of the token")
        try:
            key = ensure_keys(settings.ISSUER_DIR)
        except Fatal as error:
            raise CommandError(str(error)) from error
        if options["init_only"]:
            return
        self.stdout.write(
            issue(
                key,
                subject=options["sub"],
                issuer=options["iss"],
                audience=options["aud"],
                scope=options["scope"],
                issued_at=int(time.time()),
                ttl_ms=options["ttl"],
                chains=None if options["chains"] is None else options["chains"].split(),
            )
        )
