"""A migrated database for the web nodes of a test.

A node without Redis lets nobody in unless its database says what operators revoked.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


def migrated_database(directory: Path) -> Path:
    """A new SQLite file in the directory, in which operators have decided nothing."""
    made = Path(tempfile.mkstemp(suffix=".sqlite3", dir=directory)[1])
    shutil.copyfile(_template(), made)
    return made


@cache
def _template() -> Path:
    """Migrated once a process: it takes seconds."""
    directory = tempfile.mkdtemp(prefix="swaps-database-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    file = Path(directory) / "template.sqlite3"
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "-v", "0"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_FILE": str(file), "DATABASE_URL": ""},
        check=True,
        timeout=120,
    )
    # Into one file: what lies in the write-ahead log would not be copied.
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file
