"""The archive's tables, created from the numbered SQL files of infra/clickhouse/schema.

Each file is applied once, in order. The table schema_files records which, by the digest of the text
as it was sent. A file that contains a setting (`{hot_seconds}`) is applied again when the setting
changes. Every statement may run twice, so two processes may apply the files at the same time.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.tables import COLD, HOT, POLICY
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal

_FILES: Final = Path(__file__).parents[2] / "infra" / "clickhouse" / "schema"
_LOG: Final = "000_schema_files.sql"
_SETTING: Final = re.compile(r"\{(\w+)\}")
_MADE: Final = re.compile(r"^CREATE (?:TABLE|MATERIALIZED VIEW) IF NOT EXISTS (\w+)", re.M)
_LONGEST_TTL_CHECK_S: Final = 14_400


def ensure_schema(clickhouse: ClickHouseClient, config: Config) -> list[str]:
    """Create or update the tables; return the names of the files applied, none if all was in place.

    Raises Unavailable if the server cannot be reached, Refused if it refuses a statement, and Fatal
    if it lacks the storage policy or if an applied file was edited afterwards.
    """
    require_policy(clickhouse)
    _apply(clickhouse, (_FILES / _LOG).read_text(), {})
    known, settings = _known(clickhouse), _settings(config)
    applied = []
    for path in sorted(_FILES.glob("[0-9]*.sql")):
        text = path.read_text()
        digest = _digest(text, settings)
        if path.name == _LOG or known.get(path.name) == digest:
            continue
        if path.name in known and not _SETTING.search(text):
            raise Fatal(
                f"{path.name} was edited after it was applied to ClickHouse at "
                f"{clickhouse.address}: take the edit back, and put the change in a new numbered "
                "file"
            )
        _apply(clickhouse, text, settings)
        clickhouse.execute(
            "INSERT INTO schema_files (file, digest) SELECT %(file)s, %(digest)s",
            {"file": path.name, "digest": digest},
        )
        applied.append(path.name)
    return applied


def outstanding(clickhouse: ClickHouseClient, config: Config) -> list[str]:
    """Return the files that `ensure_schema` would apply; the table schema_files must exist."""
    known, settings = _known(clickhouse), _settings(config)
    return [
        path.name
        for path in sorted(_FILES.glob("[0-9]*.sql"))
        if path.name != _LOG and known.get(path.name) != _digest(path.read_text(), settings)
    ]


def missing_tables(clickhouse: ClickHouseClient) -> list[str]:
    """Return the tables and views of the schema files that are not in the database."""
    wanted = [
        name
        for path in sorted(_FILES.glob("[0-9]*.sql"))
        for name in _MADE.findall(path.read_text())
    ]
    there = {
        name
        for (name,) in clickhouse.execute(
            "SELECT name FROM system.tables WHERE database = currentDatabase()"
        )
    }
    return [name for name in wanted if name not in there]


def _known(clickhouse: ClickHouseClient) -> dict[str, str]:
    return dict(
        clickhouse.execute(
            "SELECT file, argMax(digest, applied_at) FROM schema_files GROUP BY file"
        )
    )


def _digest(text: str, settings: dict[str, int]) -> str:
    return hashlib.sha256(_filled(text, settings).encode()).hexdigest()


def _settings(config: Config) -> dict[str, int]:
    keep_s = max(1, config.keep_ttl_ms // 1000)
    return {
        "hot_seconds": max(1, config.hot_ttl_ms // 1000),
        "keep_seconds": keep_s,
        "daily_keep_seconds": max(1, config.daily_ttl_ms // 1000),
        # How late a part may be dropped: a small share of its lifetime. ClickHouse's default is 4
        # hours, which suits lifetimes of weeks.
        "ttl_check_seconds": min(max(1, keep_s // 200), _LONGEST_TTL_CHECK_S),
    }


def require_policy(clickhouse: ClickHouseClient) -> None:
    """Raise Fatal if the server lacks the storage policy of the tables."""
    volumes = {
        name
        for (name,) in clickhouse.execute(
            "SELECT volume_name FROM system.storage_policies WHERE policy_name = %(policy)s",
            {"policy": POLICY},
        )
    }
    if not {HOT, COLD} <= volumes:
        found = f"has only the volumes {', '.join(sorted(volumes))}" if volumes else "is missing"
        raise Fatal(
            f"ClickHouse at {clickhouse.address}: the storage policy {POLICY!r} {found}; it needs "
            f"the volumes {HOT} and {COLD}. Put infra/clickhouse/storage.xml in the server's "
            "config.d directory and start the server again"
        )


def _apply(clickhouse: ClickHouseClient, text: str, settings: dict[str, int]) -> None:
    for statement in _statements(_filled(text, settings)):
        clickhouse.execute(statement)


def _filled(text: str, settings: dict[str, int]) -> str:
    return _SETTING.sub(lambda match: str(settings[match[1]]), text)


def _statements(text: str) -> list[str]:
    """Return the statements between the semicolons, without comments: no text contains either."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return [statement.strip() for statement in code.split(";") if statement.strip()]
