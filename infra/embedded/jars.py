"""The broker's jars: fetched once, verified against the lock at every start.

The cache lies outside the repository. A jar is written under a temporary name and renamed only
after its hash matches, so a file with a jar's name was correct when it was written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.embedded import disk, wheels
from infra.embedded.errors import BadJar, DiskFull, DownloadFailed, Stopped

LOCK = Path(__file__).with_name("kafka.lock")
_PARALLEL = 8
_CHUNK = 1 << 18
_TIMEOUT_S = 30
_TRIES = 6
# The pause after the first failure, in seconds; each further one is twice as long.
_PAUSE_S = 0.5

Report = Callable[[str], None]
# Yields the bytes of a jar, in chunks, by its coordinate.
Fetch = Callable[[str], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock."""

    coordinate: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        """`artifact-version.jar`, as Maven names it."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def read_lock(path: Path = LOCK) -> list[Jar]:
    """Read the lock: `group:artifact:version bytes sha256` per line; # begins a comment."""
    jars = []
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            coordinate, size, sha256 = line.split()
            jars.append(Jar(coordinate, int(size), sha256))
    return jars


def cache_directory() -> Path:
    """Return the cache directory: SWAPS_CACHE_DIR, or this project's folder in the XDG cache."""
    own = os.environ.get("SWAPS_CACHE_DIR")
    if own:
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "swap-aggregator"


def maven_fetch(stopping: threading.Event) -> Fetch:
    """Return a fetcher that uses the default repository of the package maven-artifact."""
    artifact = wheels.module("maven_artifact.artifact", "maven-artifact").Artifact
    downloader: Any = wheels.module("maven_artifact.downloader", "maven-artifact").Downloader()
    # Use the system's certificates, as pip and browsers do, so that a company's proxy works.
    wheels.module("truststore", "truststore").inject_into_ssl()

    def fetch(coordinate: str) -> Iterator[bytes]:
        url = downloader.resolver.uri_for_artifact(artifact.parse(coordinate))
        with downloader.requestor.request(url, None, stream=True, timeout=_TIMEOUT_S) as response:
            for chunk in response.iter_content(_CHUNK):
                if stopping.is_set():
                    raise Stopped("stopped while the jars were fetched")
                yield chunk

    return fetch


def ensure(
    jars: Sequence[Jar],
    directory: Path,
    stopping: threading.Event,
    report: Report,
    fetch: Fetch | None = None,
) -> list[Path]:
    """Return the paths of the `jars`; fetch missing ones, and use no network if there are none.

    Raises BadJar, DownloadFailed, DiskFull or Stopped.
    """
    for jar in jars:
        _check_kept(directory / jar.filename, jar)
    if any(not (directory / jar.filename).exists() for jar in jars):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with _alone(directory):
                missing = [jar for jar in jars if not (directory / jar.filename).exists()]
                disk.ensure_room(directory, sum(jar.size for jar in missing))
                _fetch_all(missing, directory, stopping, report, fetch or maven_fetch(stopping))
        except OSError as error:
            if disk.is_full(error):
                raise DiskFull(directory, "the jars do not fit") from error
            raise
    return [directory / jar.filename for jar in jars]


def _check_kept(path: Path, jar: Jar) -> None:
    if not path.exists():
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise BadJar(
            f"{path} was changed since it was fetched: its SHA-256 is {found}, the lock says "
            f"{jar.sha256}. Delete that file and start again: it will be fetched again"
        )


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Wait for another process that fetches the same jars."""
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_all(
    jars: list[Jar], directory: Path, stopping: threading.Event, report: Report, fetch: Fetch
) -> None:
    total, begun = sum(jar.size for jar in jars), time.monotonic()
    # Bytes so far. Needs no lock: only one thread writes each coordinate.
    got: Counter[str] = Counter()
    with ThreadPoolExecutor(_PARALLEL, "jars") as pool:
        pending = {pool.submit(_fetch_one, jar, directory, fetch, got, stopping) for jar in jars}
        try:
            while pending:
                done, pending = wait(pending, timeout=1, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                megabytes, seconds = sum(got.values()) / disk.MEGABYTE, time.monotonic() - begun
                report(
                    f"jars {len(jars) - len(pending)}/{len(jars)}, {megabytes:.1f} of "
                    f"{total / disk.MEGABYTE:.1f} MB, {seconds:.1f} s"
                )
        except BaseException:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch_one(
    jar: Jar, directory: Path, fetch: Fetch, got: Counter[str], stopping: threading.Event
) -> None:
    for attempt in range(1, _TRIES + 1):
        part = directory / f"{jar.filename}.part"
        try:
            _write(jar, part, fetch(jar.coordinate), got)
        except (BadJar, Stopped):
            raise
        except OSError as error:  # includes the HTTP client's errors
            if disk.is_full(error):
                raise
            if attempt == _TRIES:
                raise DownloadFailed(
                    f"{jar.coordinate} could not be fetched ({error}). Check the network and the "
                    "proxy settings, then start again: what was fetched is kept"
                ) from error
            stopping.wait(_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1))  # noqa: S311 - jitter
        else:
            part.rename(directory / jar.filename)
            return
        finally:
            part.unlink(missing_ok=True)


def _write(jar: Jar, part: Path, chunks: Iterator[bytes], got: Counter[str]) -> None:
    digest = hashlib.sha256()
    got[jar.coordinate] = 0
    with part.open("wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
            got[jar.coordinate] += len(chunk)
    if digest.hexdigest() != jar.sha256:
        raise BadJar(
            f"{jar.coordinate} as served has the SHA-256 {digest.hexdigest()}, the lock says "
            f"{jar.sha256}. Nothing was kept. If a proxy or mirror is in use, it does not "
            "serve the original; otherwise try again later"
        )
