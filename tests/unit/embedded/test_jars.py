"""Fetching the broker's jars: what is kept, what is refused, and the messages."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.embedded import disk, jars
from infra.embedded.errors import BadJar, DiskFull, DownloadFailed, MissingWheel, Stopped
from infra.embedded.jars import Fetch, Jar

BODIES = {f"org.example:part-{n}:1.{n}": bytes([n]) * (100_000 + n) for n in range(12)}
JARS = [
    Jar(coordinate, len(body), hashlib.sha256(body).hexdigest())
    for coordinate, body in BODIES.items()
]


class Repository:
    """Serves BODIES, records the requests, and lets a test corrupt a response."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.spoil: Callable[[str, int], bytes | None] = lambda _coordinate, _attempt: None

    def __call__(self, coordinate: str) -> Iterator[bytes]:
        self.asked.append(coordinate)
        body = self.spoil(coordinate, self.asked.count(coordinate)) or BODIES[coordinate]
        yield body[:50_000]
        yield body[50_000:]


def ensure(directory: Path, fetch: Fetch, stopping: threading.Event | None = None) -> list[Path]:
    return jars.ensure(JARS, directory, stopping or threading.Event(), lambda _: None, fetch)


def kept(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.suffix != ".lock"} - {".lock"}


def test_the_lock_names_each_jar_once_with_its_hash() -> None:
    locked = jars.read_lock()
    assert len({jar.filename for jar in locked}) == len(locked) == 46
    assert any(jar.coordinate == "org.apache.kafka:kafka_2.13:4.1.0" for jar in locked)
    assert all(len(bytes.fromhex(jar.sha256)) == 32 and jar.size > 0 for jar in locked)


def test_all_are_fetched_once_and_the_second_start_needs_no_network(tmp_path: Path) -> None:
    repository = Repository()
    paths = ensure(tmp_path, repository)
    assert [path.read_bytes() for path in paths] == list(BODIES.values())
    assert sorted(repository.asked) == sorted(BODIES)
    assert kept(tmp_path) == {jar.filename for jar in JARS}

    assert ensure(tmp_path, repository) == paths
    assert len(repository.asked) == len(BODIES)


def test_only_what_is_missing_is_fetched(tmp_path: Path) -> None:
    ensure(tmp_path, Repository())
    (tmp_path / JARS[3].filename).unlink()
    repository = Repository()
    ensure(tmp_path, repository)
    assert repository.asked == [JARS[3].coordinate]


def test_a_jar_changed_in_the_cache_is_named_and_fetched_again_once_deleted(tmp_path: Path) -> None:
    paths = ensure(tmp_path, Repository())
    paths[2].write_bytes(b"something else")
    repository = Repository()
    with pytest.raises(BadJar, match="Delete that file") as error:
        ensure(tmp_path, repository)
    assert str(paths[2]) in str(error.value)
    assert JARS[2].sha256 in str(error.value)
    assert repository.asked == []

    paths[2].unlink()
    ensure(tmp_path, repository)
    assert paths[2].read_bytes() == BODIES[JARS[2].coordinate]


def test_a_jar_served_with_other_bytes_is_not_kept(tmp_path: Path) -> None:
    wrong = JARS[5]
    repository = Repository()
    repository.spoil = lambda coordinate, _: b"evil" if coordinate == wrong.coordinate else None
    with pytest.raises(BadJar, match="Nothing was kept") as error:
        ensure(tmp_path, repository)
    assert wrong.coordinate in str(error.value)
    assert not [name for name in kept(tmp_path) if name.startswith(wrong.filename)]
    assert not list(tmp_path.glob("*.part"))


def test_a_broken_connection_is_tried_again(tmp_path: Path) -> None:
    def break_twice(_coordinate: str, attempt: int) -> None:
        if attempt < 3:
            raise ConnectionResetError("peer went away")

    repository = Repository()
    repository.spoil = break_twice
    ensure(tmp_path, repository)
    assert kept(tmp_path) == {jar.filename for jar in JARS}


def test_a_repository_out_of_reach_says_so(tmp_path: Path) -> None:
    def broken(_coordinate: str, _attempt: int) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    repository = Repository()
    repository.spoil = broken
    with pytest.raises(DownloadFailed, match="Check the network"):
        ensure(tmp_path, repository)
    assert not list(tmp_path.glob("*.part"))


def test_too_little_room_is_noticed_before_a_byte_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: 1_000_000)
    repository = Repository()
    with pytest.raises(DiskFull, match=r"1 MB free, 1 MB needed.*SWAPS_CACHE_DIR"):
        ensure(tmp_path, repository)
    assert repository.asked == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_while_fetching_is_named(tmp_path: Path) -> None:
    (tmp_path / f"{JARS[0].filename}.part").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="SWAPS_CACHE_DIR") as error:
        ensure(tmp_path, Repository())
    assert str(tmp_path) in str(error.value)
    assert not (tmp_path / JARS[0].filename).exists()


def test_a_stop_leaves_no_partial_jar(tmp_path: Path) -> None:
    stopping = threading.Event()

    def fetch(coordinate: str) -> Iterator[bytes]:
        yield BODIES[coordinate][:10]
        stopping.set()
        raise Stopped("stopped while the jars were fetched")

    with pytest.raises(Stopped):
        ensure(tmp_path, fetch, stopping)
    assert not list(tmp_path.glob("*.part"))


def test_without_the_maven_client_the_wheel_is_named(
    tmp_path: Path, hidden_modules: Callable[[str], None]
) -> None:
    hidden_modules("maven_artifact")
    with pytest.raises(MissingWheel, match=r"maven-artifact.*requirements-embedded\.txt"):
        jars.ensure(JARS, tmp_path, threading.Event(), lambda _: None)


def test_the_cache_is_outside_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWAPS_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert jars.cache_directory() == Path("/somewhere/cache/swap-aggregator")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert jars.cache_directory() == Path.home() / ".cache" / "swap-aggregator"
    monkeypatch.setenv("SWAPS_CACHE_DIR", "/elsewhere")
    assert jars.cache_directory() == Path("/elsewhere")
