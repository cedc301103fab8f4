"""Findings of the doctor without an engine: setting names, disk space, and owners' settings."""

from __future__ import annotations

import msgspec
import pytest

from aggregator.contracts.homes import Homes
from aggregator.contracts.stats import Heartbeat
from aggregator.counting.commit_metadata import NOTHING_COMMITTED, CommitMetadata
from aggregator.runtime.config import load
from aggregator.runtime.version import VERSION
from console.doctor.environment import of_memory_of_ids, of_names, of_room
from console.doctor.finding import Finding
from console.doctor.homes import Placed, of_homes
from console.doctor.nats import of_owners
from console.doctor.sources import of_source
from sources.overview import SourceOverview

GIB = 2**30
CONFIG = load({})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RATE_LIMT", "RATE_LIMIT"),
        ("RATELIMIT", "RATE_LIMIT"),
        ("WINDOW", "WINDOWS"),
        ("KAFKA_TOPICS", "KAFKA_TOPIC"),
        ("JWT_PUBLIC_KEY", "JWT_PUBLIC_KEY_FILE"),
        ("REDIS_URL_FIEL", "REDIS_URL_FILE"),
        ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BOOTSTRAP"),
    ],
)
def test_a_misspelt_name_of_a_setting(name: str, meant: str) -> None:
    [found] = of_names([name])
    assert (found.level, found.what, found.fix) == ("WARN", name, f"did you mean {meant}?")


def test_settings_and_variables_of_other_programs_are_no_mistakes() -> None:
    others = [
        "PATH", "HOME", "HOSTNAME", "LANG", "LOGNAME", "PWD", "SHELL", "TERM", "USER", "TOKEN",
        "WEB_URL", "HTTP_PORT", "SWAPS_VERSION", "NUMBA_CACHE_DIR", "PYTHONUNBUFFERED",
        "DJANGO_SETTINGS_MODULE", "DJANGO_SUPERUSER_USERNAME", "OTEL_TRACES_SAMPLER", "ISSUER_DIR",
        "DEMO_STARTED", "KUBERNETES_SERVICE_HOST", "SSL_CERT_FILE", "VIRTUAL_ENV", "TZ", "CI",
        "GRACE", "WINDOWS", "DJANGO_SECRET_KEY_FILE", "CLICKHOUSE_COLD_ENDPOINT",
    ]  # fmt: skip
    assert [each.level for each in of_names(others)] == ["OK"]


@pytest.mark.parametrize(
    ("free", "total", "level"),
    [
        (50 * GIB, 100 * GIB, "OK"),
        (11 * GIB, 1_000 * GIB, "OK"),
        (9 * GIB, 100 * GIB, "WARN"),
        (9 * GIB, 20 * GIB, "OK"),
        (GIB // 4, GIB, "FAIL"),
    ],
)
def test_room(free: int, total: int, level: str) -> None:
    found = of_room("room", free, total)
    assert found.level == level
    assert bool(found.fix) is (level != "OK")


def beat(partition: int, owner: str, **fields: object) -> Heartbeat:
    settings = dict(CONFIG.counting)
    plain = Heartbeat(
        partition, 4, 1, 1, 1, 1, "live", 0, None, 0, [], owner, VERSION, settings=settings
    )
    return msgspec.structs.replace(plain, **fields)


def test_owners_with_the_settings_of_this_environment_are_fine() -> None:
    [found] = of_owners(CONFIG, [beat(0, "a:1"), beat(1, "a:1"), beat(2, "b:1")])
    assert (found.level, found.said.split()[0]) == ("OK", "2")
    [none] = of_owners(CONFIG, [])
    assert none.level == "OK" and "none is running" in none.said


def test_owners_of_another_version_or_with_other_settings() -> None:
    other = load({"WINDOWS": "5m,1h", "GRACE": "90s"}).counting
    found = of_owners(
        CONFIG,
        [beat(0, "a:1", version="0.0.9"), beat(1, "b:1", settings=other), beat(2, "c:1")],
    )
    said = {each.what: (each.level, each.said) for each in found}
    assert said == {
        "version of owners": ("WARN", f"a:1 runs 0.0.9, this is {VERSION}"),
        "WINDOWS of owners": ("FAIL", "b:1 counts with 5m,1h, here it is 5m,1h,24h"),
        "GRACE of owners": ("FAIL", "b:1 counts with 90s, here it is 1d"),
    }


def test_an_owner_that_does_not_report_its_settings_yet_is_fine() -> None:
    [found] = of_owners(CONFIG, [beat(0, "a:1", settings={})])
    assert found.level == "OK"


def placed(partitioner: str, homes: int = 4) -> list[Placed]:
    tokens = [f"ethereum:T{number}" for number in range(300)]
    return [Placed(token, Homes(partitioner, homes).of(token)) for token in tokens]


def test_records_at_home_are_fine() -> None:
    [found] = of_homes(CONFIG, NOTHING_COMMITTED, 4, placed("murmur2"))
    assert found.level == "OK"
    [none] = of_homes(CONFIG, NOTHING_COMMITTED, 4, [])
    assert none.level == "OK"
    # Two partitions were added: the homes stay the four of the beginning.
    [grown] = of_homes(CONFIG, CommitMetadata(3, 4, "murmur2"), 6, placed("murmur2"))
    assert grown.level == "OK"


def test_another_partitioner_is_named() -> None:
    [found] = of_homes(CONFIG, NOTHING_COMMITTED, 4, placed("fnv1a"))
    assert (found.level, found.fix.split(" before")[0]) == ("WARN", "set it to fnv1a")
    [fixed] = of_homes(CONFIG, CommitMetadata(3, 4, "murmur2"), 4, placed("crc32"))
    assert fixed.level == "WARN"
    assert "let them use murmur2" in fixed.fix
    [none] = of_homes(
        CONFIG, NOTHING_COMMITTED, 4, [Placed("ethereum:T1", at % 4) for at in range(9)]
    )
    assert "the token id as the key" in none.fix


def test_a_partitioner_other_than_the_topics_is_refused() -> None:
    [found] = of_homes(CONFIG, CommitMetadata(3, 4, "crc32"), 4, placed("crc32"))
    assert (found.level, found.fix) == ("FAIL", "set it to crc32")


def test_how_late_a_repeat_is_still_noticed() -> None:
    said = of_memory_of_ids(load({"MARKER_TTL": "27h"})).said
    assert said == (
        "MARKER_TTL 27h, GRACE 1d: a repeat may be stamped 175m later than its swap, DRIFT is 1h"
    )


def test_a_source_without_a_process_needs_attention() -> None:
    lost = SourceOverview("eth", "evm", 0, "host:1", "block 7 added", {})
    assert of_source(lost) == Finding(
        "WARN",
        "source eth",
        "block 7 added, no process owns it (last host:1)",
        "start run_source for it; ignore this for a backfill that is done, or a removed source",
    )
    owned = of_source(lost._replace(members=2))
    assert (owned.level, owned.said) == ("OK", "block 7 added, owned by host:1, 1 standing by")
