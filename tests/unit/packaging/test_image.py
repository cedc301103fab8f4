"""The Dockerfile: locked packages, pinned base, no root, no files but the needed ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.packaging.files import KNOWN, ROOT

Instruction = tuple[str, str]


def stages() -> dict[str, list[Instruction]]:
    """Return (keyword, arguments) of each stage; joins continued lines, drops comments."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, arguments = line.split(maxsplit=1)
        if keyword == "FROM":
            current = found.setdefault(arguments.split(" AS ")[1], [])
        current.append((keyword, re.sub(r"\s+", " ", arguments)))
    return found


def environment(stage: str) -> dict[str, str]:
    pairs = [a for keyword, a in stages()[stage] if keyword == "ENV"]
    return dict(pair.split("=", 1) for line in pairs for pair in line.split())


def copied(stage: str) -> list[str]:
    """Return the sources that a stage copies from the repository."""
    lines = [a.split() for keyword, a in stages()[stage] if keyword == "COPY"]
    return [source for line in lines if not line[0].startswith("--from") for source in line[:-1]]


def test_hadolint_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [linter, "--failure-threshold", "style", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_both_stages_stand_on_one_exact_version() -> None:
    bases = {arguments.split()[0] for stage in stages().values() for _, arguments in stage[:1]}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases.pop())


def test_packages_come_by_the_locked_hashes_only() -> None:
    installs = [a for keyword, a in stages()["build"] if keyword == "RUN" and "pip install" in a]
    assert len(installs) == 1
    for option in ("--require-hashes", "--no-deps", "--only-binary :all:", "-r requirements.txt"):
        assert option in installs[0]
    assert not any("pip" in arguments for _, arguments in stages()["service"])


def test_the_service_has_no_root_and_brings_only_what_was_built() -> None:
    service = stages()["service"]
    users = [arguments for keyword, arguments in service if keyword == "USER"]
    assert users == ["10001:10001"]
    assert copied("service") == []
    assert {keyword for keyword, _ in service} <= {
        "FROM", "ENV", "WORKDIR", "COPY", "USER", "VOLUME", "ENTRYPOINT", "CMD",
    }  # fmt: skip


def test_the_engine_is_compiled_for_the_cpu_that_it_runs_on() -> None:
    build, service = environment("build"), environment("service")
    assert build["NUMBA_CPU_NAME"] == service["NUMBA_CPU_NAME"] == "generic"
    assert any("manage.py compile_engine" in a for keyword, a in stages()["build"])
    compiled = build["NUMBA_CACHE_DIR"]
    assert ("COPY", f"--from=build {compiled} {compiled}") in stages()["service"]
    assert compiled in (ROOT / "infra/docker/entrypoint.sh").read_text()
    # numba writes there, and only /tmp is writable.
    assert Path("/tmp") in Path(service["NUMBA_CACHE_DIR"]).parents


def test_what_is_set_in_the_image_is_a_setting() -> None:
    assert set(environment("service")) - {"PATH"} <= KNOWN


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert let_in == set(copied("build"))
    assert all((ROOT / each).exists() for each in let_in)


@pytest.mark.parametrize("package", ["aggregator", "api", "sources", "swapsite"])
def test_code_needs_no_file_that_is_left_out(package: str) -> None:
    """Code reads SQL, Lua and templates from its own packages, which the image contains.

    Only the schema and the JavaScript client, which the dashboard uses, are elsewhere.
    """
    elsewhere = ('"infra" / "clickhouse" / "schema"', '"clients" / "js"')
    outside = {
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / package).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r'/ "(infra|docs|tests|bench|clients)"', line)
        and not any(each in line for each in elsewhere)
    }
    assert outside == set()
