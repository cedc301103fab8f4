"""Room on a disk: checked before a start, and recognised where a write says that there is none."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from infra.embedded.errors import DiskFull

MEGABYTE = 1_000_000


def free_bytes(directory: Path) -> int:
    """Bytes that may still be written below `directory`, which need not exist yet."""
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def ensure_room(directory: Path, needed: int) -> None:
    """Raise DiskFull where fewer than `needed` bytes are free."""
    free = free_bytes(directory)
    if free < needed:
        raise DiskFull(
            directory, f"{free / MEGABYTE:.0f} MB free, {needed / MEGABYTE:.0f} MB needed"
        )


def is_full(error: OSError) -> bool:
    """Whether `error` says that the disk, or the user's share of it, is used up."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}
