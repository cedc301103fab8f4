"""`manage.py delete_old_keys`: deletes what versions with a marker for each swap left in Redis."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from redis.exceptions import RedisError

from aggregator.runtime.redis_client import redis_client

_TOPIC: Final = rb"[A-Za-z0-9._-]+"
# Keys of this version have a hash tag in braces: they never match, but for a marker that begins so.
_OLD: Final = {
    "markers": rb"dedupe:(?!\{[^{}]+:\d+\}:\d+\Z).{16}",
    "snapshots": rb"snap:" + _TOPIC + rb":\d+:(head|sections|staged)",
    "board rows": rb"board:" + _TOPIC + rb":\d+:(head|rows)",
    "check-ins": rb"checkin:" + _TOPIC + rb"|archive:" + _TOPIC + rb"(:\d+)?|run:token",
}
_KINDS: Final = {kind: re.compile(pattern, re.DOTALL) for kind, pattern in _OLD.items()}
_SCANNED_A_CALL: Final = 2_000
_PROGRESS: Final = 1_000_000


def old_kind(key: bytes) -> str | None:
    """Return what an older version kept under the key; None for any other key."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(key)), None)


class Command(BaseCommand):
    """Counts the old keys, or deletes them."""

    help = (
        "Finds the keys that versions with a marker for each swap left in Redis: markers, "
        "snapshots and board rows without a hash tag, check-ins. Shows how many there are, or "
        "deletes them. Run it once no process of such a version is left and none will come back."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add `--delete`."""
        parser.add_argument("--delete", action="store_true", help="delete them")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Scan all keys of the database. Raises CommandError if Redis does not answer."""
        try:
            found = self._scan(options["delete"])
        except RedisError as error:
            raise CommandError(f"redis: {error}; run the command again") from error
        done = "deleted" if options["delete"] else "found"
        for kind in _KINDS:
            self.stdout.write(f"{kind}: {found[kind]} {done}")
        if sum(found.values()) and not options["delete"]:
            self.stdout.write("nothing was deleted: add --delete")

    def _scan(self, delete: bool) -> Counter[str]:
        found: Counter[str] = Counter()
        seen = 0
        cursor: Any = 0
        with redis_client(settings.SWAPS.redis_url) as client:
            while True:
                answer: Any = client.scan(cursor, count=_SCANNED_A_CALL)
                cursor, keys = answer
                old = {key: kind for key in keys if (kind := old_kind(key)) is not None}
                if old and delete:
                    client.unlink(*old)
                found.update(old.values())
                if (seen + len(keys)) // _PROGRESS > seen // _PROGRESS:
                    self.stdout.write(f"{seen + len(keys)} keys scanned, {sum(found.values())} old")
                seen += len(keys)
                if cursor == 0:
                    return found
