"""The chain's npm packages: fetched once by `npm pack`, verified against the lock at every start.

The cache lies beside the broker's jars. A tarball gets its name only after its hash matches.
Nothing of a package is installed and no script of it runs: files are read out of the tarball.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.chain.errors import BadPackage, MissingNpm, NoAnvil
from infra.embedded import disk
from infra.embedded.errors import DiskFull, DownloadFailed
from infra.embedded.jars import cache_directory

LOCK: Final = Path(__file__).with_name("npm.lock")
_TIMEOUT_S: Final = 300
_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
}

Report = Callable[[str], None]
# Writes the tarball of a package into a directory and returns its path.
Pack = Callable[["Package", Path], Path]


@dataclass(frozen=True, slots=True)
class Package:
    """One line of the lock."""

    name: str
    version: str
    integrity: str

    @property
    def filename(self) -> str:
        """The tarball's name, as `npm pack` names it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def read_lock(path: Path = LOCK) -> dict[str, Package]:
    """Read the lock: `name version integrity` per line; # begins a comment."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return {line[0]: Package(*line) for line in lines if line and line[0] != "#"}


def npm_directory() -> Path:
    """Return the directory of the tarballs."""
    return cache_directory() / "npm"


def anvil_package() -> str:
    """Return the name of the package with this machine's anvil. Raises NoAnvil."""
    system, machine = platform.system().lower(), platform.machine().lower()
    architecture = _ARCHITECTURES.get(machine)
    if system not in {"linux", "darwin"} or architecture is None:
        raise NoAnvil(platform.system(), platform.machine())
    return f"@foundry-rs/anvil-{system}-{architecture}"


def needed() -> list[Package]:
    """Return the packages that this machine needs. Raises NoAnvil."""
    mine = anvil_package()
    return [
        package
        for name, package in read_lock().items()
        if name == mine or not name.startswith("@foundry-rs/")
    ]


def npm_pack(package: Package, directory: Path) -> Path:
    """Fetch a package with the npm client. Raises MissingNpm or DownloadFailed."""
    wanted = f"{package.name}@{package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise MissingNpm(wanted)
    command = [npm, "pack", wanted, "--silent", "--ignore-scripts", "--pack-destination"]
    try:
        subprocess.run(
            [*command, str(directory)],
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip()[-500:] or f"status {error.returncode}"
        raise DownloadFailed(_cannot_fetch(wanted, last)) from error
    except subprocess.TimeoutExpired as error:
        raise DownloadFailed(_cannot_fetch(wanted, f"no end after {_TIMEOUT_S} s")) from error
    return directory / package.filename


def _cannot_fetch(wanted: str, why: str) -> str:
    return (
        f"npm could not fetch {wanted}: {why}\nCheck the network and npm's settings "
        "(registry, proxy), then start again: what was fetched is kept"
    )


def ensure(
    packages: Iterable[Package], directory: Path, report: Report, pack: Pack = npm_pack
) -> None:
    """Verify the tarballs in `directory`; fetch missing ones, and use no network without any.

    Raises BadPackage, MissingNpm, DownloadFailed or DiskFull.
    """
    for package in packages:
        kept = directory / package.filename
        if kept.exists():
            _verify(kept, package, f"Delete {kept} and start again: it will be fetched again")
            continue
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _fetch(package, directory, pack)
        except OSError as error:
            if disk.is_full(error):
                raise DiskFull(directory, f"{package.name} does not fit") from error
            raise
        report(f"{package.name} {package.version} fetched")


def _fetch(package: Package, directory: Path, pack: Pack) -> None:
    with tempfile.TemporaryDirectory(dir=directory, prefix=".part-") as part:
        fetched = pack(package, Path(part))
        advice = (
            "Nothing was kept. If a proxy or mirror is in use, it does not serve the original; "
            "otherwise try again later"
        )
        _verify(fetched, package, advice)
        fetched.rename(directory / package.filename)


def _verify(path: Path, package: Package, advice: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    found = f"sha512-{base64.b64encode(digest).decode()}"
    if found != package.integrity:
        raise BadPackage(
            f"{package.name} {package.version} has the hash {found}, the lock says "
            f"{package.integrity}. {advice}"
        )


def read(package: Package, directory: Path, files: Iterable[str]) -> dict[str, bytes]:
    """Return the contents of `files` of a package, in one pass over its tarball.

    Raises BadPackage where one is missing.
    """
    left, found = set(files), dict[str, bytes]()
    with tarfile.open(directory / package.filename, "r|gz") as tar:
        for member in tar:
            name = member.name.partition("/")[2]  # npm puts everything in one folder
            if name in left and (content := tar.extractfile(member)) is not None:
                found[name] = content.read()
                left.discard(name)
                if not left:
                    break
    if left:
        raise BadPackage(f"{package.name} {package.version} has no {', '.join(sorted(left))}")
    return found


def read_json(package: Package, directory: Path, files: Iterable[str]) -> dict[str, Any]:
    """Return the contents of JSON files of a package, as `read`."""
    return {name: json.loads(body) for name, body in read(package, directory, files).items()}
