"""Disk space: the check before a start, and the errors of a write that mean a full disk."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from infra.embedded.errors import DiskFull

MEGABYTE = 1_000_000


def free_bytes(directory: Path) -> int:
    """Return the free bytes for `directory`, which need not exist yet."""
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def ensure_room(directory: Path, needed: int) -> None:
    """Raise DiskFull if fewer than `needed` bytes are free."""
    free = free_bytes(directory)
    if free < needed:
        raise DiskFull(
            directory, f"{free / MEGABYTE:.0f} MB free, {needed / MEGABYTE:.0f} MB needed"
        )


def is_full(error: OSError) -> bool:
    """Return whether `error` means that the disk, or the user's quota on it, is used up."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}
