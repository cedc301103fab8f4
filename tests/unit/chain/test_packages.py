"""Fetching the chain's npm packages: what is kept, what is refused, and the messages."""

from __future__ import annotations

import base64
import hashlib
import io
import platform
import tarfile
from pathlib import Path

import pytest

from infra.chain import packages
from infra.chain.errors import BadPackage, MissingNpm, NoAnvil
from infra.chain.packages import Package


def tarball(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        for name, body in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(body)
            tar.addfile(entry, io.BytesIO(body))
    return written.getvalue()


BODY = tarball({"package.json": b"{}", "out/A.json": b'{"abi": []}'})
INTEGRITY = "sha512-" + base64.b64encode(hashlib.sha512(BODY).digest()).decode()
PACKAGE = Package("@example/contracts", "1.2.3", INTEGRITY)


class Registry:
    """Serves one body under every name and counts the requests."""

    def __init__(self, body: bytes = BODY) -> None:
        self.body = body
        self.asked = 0

    def __call__(self, package: Package, directory: Path) -> Path:
        self.asked += 1
        path = directory / package.filename
        path.write_bytes(self.body)
        return path


def test_the_lock_pins_each_package_by_a_sha_512() -> None:
    locked = packages.read_lock()
    assert len(locked) == 9
    for package in locked.values():
        algorithm, digest = package.integrity.split("-", 1)
        assert algorithm == "sha512"
        assert len(base64.b64decode(digest)) == 64


def test_a_package_is_fetched_once_and_read_from_its_tarball(tmp_path: Path) -> None:
    registry, said = Registry(), list[str]()
    for _ in range(2):
        packages.ensure([PACKAGE], tmp_path, said.append, registry)
    assert registry.asked == 1
    assert said == ["@example/contracts 1.2.3 fetched"]
    assert [path.name for path in tmp_path.iterdir()] == ["example-contracts-1.2.3.tgz"]
    assert packages.read_json(PACKAGE, tmp_path, ["out/A.json"]) == {"out/A.json": {"abi": []}}


def test_other_bytes_than_the_locked_ones_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BadPackage, match=r"the lock says sha512-.*Nothing was kept"):
        packages.ensure([PACKAGE], tmp_path, print, Registry(BODY + b"\0"))
    assert list(tmp_path.iterdir()) == []


def test_a_kept_package_that_was_changed_is_refused_with_its_path(tmp_path: Path) -> None:
    kept = tmp_path / PACKAGE.filename
    kept.write_bytes(b"other")
    with pytest.raises(BadPackage, match=f"Delete {kept} and start again"):
        packages.ensure([PACKAGE], tmp_path, print, Registry())


def test_a_file_that_a_package_lacks_is_named(tmp_path: Path) -> None:
    packages.ensure([PACKAGE], tmp_path, print, Registry())
    with pytest.raises(BadPackage, match=r"1\.2\.3 has no out/B\.json"):
        packages.read(PACKAGE, tmp_path, ["out/A.json", "out/B.json"])


def test_without_npm_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingNpm, match=r"npm was not found.*@example/contracts@1\.2\.3"):
        packages.ensure([PACKAGE], tmp_path / "cache", print)


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("Linux", "x86_64", "@foundry-rs/anvil-linux-amd64"),
        ("Linux", "aarch64", "@foundry-rs/anvil-linux-arm64"),
        ("Darwin", "arm64", "@foundry-rs/anvil-darwin-arm64"),
    ],
)
def test_only_this_machines_anvil_is_needed(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, name: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    names = [package.name for package in packages.needed()]
    assert [each for each in names if "anvil" in each] == [name]
    assert len(names) == 6


def test_a_machine_without_a_build_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(NoAnvil, match="riscv64"):
        packages.needed()
