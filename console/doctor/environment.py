"""Checks this environment: misspelt names of settings, and free space on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from aggregator.runtime.config import SECRETS, Config, duration_text
from console.doctor.finding import Finding

# 0.8 matches names with a few wrong, swapped or missing letters, but no other name.
_ALIKE: Final = 0.8
# Read by OpenTelemetry's SDK, Django's commands and the tests of this repository.
_OTHERS: Final = ("OTEL_", "DJANGO_SUPERUSER_", "DJANGO_SETTINGS_MODULE")
# FAIL below the first; WARN below both of the others.
_FULL_BYTES: Final = 512 * 2**20
_LITTLE_BYTES: Final = 10 * 2**30
_LITTLE_SHARE: Final = 0.1


def check(config: Config) -> list[Finding]:
    """Return the findings that need no engine."""
    return [*of_names(os.environ), _disk(config), of_memory_of_ids(config)]


def of_memory_of_ids(config: Config) -> Finding:
    """Say how long a repeat may take and still be noticed; the settings were checked together."""
    kept = max(config.grace_ms, config.longest_window_minutes * 60_000) + config.max_future_ms
    spare_ms = config.marker_ttl_ms - kept
    said = (
        f"MARKER_TTL {duration_text(config.marker_ttl_ms)}, GRACE "
        f"{duration_text(config.grace_ms)}: a repeat may be stamped {duration_text(spare_ms)} "
        f"later than its swap, DRIFT is {duration_text(config.drift_ms)}"
    )
    return Finding("OK", "memory of ids", said)


def of_names(names: Iterable[str]) -> list[Finding]:
    """Return a warning for each variable that looks like a misspelt setting."""
    known = {each.metadata["env"] for each in fields(Config)}
    known |= {f"{name}_FILE" for name in SECRETS}
    found = []
    for name in sorted(set(names) - known):
        if name.startswith(_OTHERS):
            continue
        if near := _near(name, known):
            said = "is not a setting, so it changes nothing"
            found.append(Finding("WARN", name, said, f"did you mean {near}?"))
    return found or [Finding("OK", "names of settings", "none looks misspelt")]


def _near(name: str, known: set[str]) -> str | None:
    """Return the setting that a misspelt name, or a name with a suffix too many, stands for."""
    longer = [each for each in known if "_" in each and name.startswith(f"{each}_")]
    alike = get_close_matches(name, known, 1, _ALIKE)
    return alike[0] if alike else max(longer, key=len, default=None)


def of_room(what: str, free: int, total: int) -> Finding:
    """Return the finding for a disk with `free` of `total` bytes."""
    said = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    fix = "make room, or give it a larger disk, before it is full"
    if free < _FULL_BYTES:
        return Finding("FAIL", what, said, fix)
    if free < _LITTLE_BYTES and free < total * _LITTLE_SHARE:
        return Finding("WARN", what, said, fix)
    return Finding("OK", what, said)


def _disk(config: Config) -> Finding:
    """Check the disk of the admin's database file, or of the working directory."""
    place = Path(config.database_file or ".").absolute()
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    return of_room("room on this disk", usage.free, usage.total)
