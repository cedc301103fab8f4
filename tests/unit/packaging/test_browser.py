"""Chromium for the dashboard's tests: `make test` installs it or says what to install."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.browser import chromium
from tests.unit.packaging.files import ROOT

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
ADVICE = "apt-get install chromium-headless-shell, or set CHROMIUM to a browser's path"


class Machine:
    """A PATH with only the programs that a test adds."""

    def __init__(self, directory: Path, step: str = ".ci/browser") -> None:
        self.programs = directory
        self._step = step
        bash = shutil.which("bash")
        assert bash is not None
        (directory / "bash").symlink_to(bash)

    def has(self, name: str, script: str = "") -> Path:
        """Add a program with this name."""
        program = self.programs / name
        program.write_text(f"#!{self.programs / 'bash'}\n{script}\n")
        program.chmod(0o755)
        return program

    def asks(self, **env: str) -> str:
        """Run the step of `make test`, which always succeeds; return its output."""
        done = subprocess.run(
            [ROOT / self._step],
            env={"PATH": str(self.programs), **env},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_make_test_runs_the_steps_of_browser_and_nginx() -> None:
    command = ["make", "-n", "test"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {".ci/browser", ".ci/nginx"} <= set(done.stdout.splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_one_that_is_there_is_enough(machine: Machine, name: str) -> None:
    machine.has(name)
    assert machine.asks() == ""


def test_one_that_is_named_is_enough(machine: Machine) -> None:
    assert machine.asks(CHROMIUM=str(machine.has("my-browser"))) == ""


def test_without_root_it_says_what_to_install(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    machine.has("apt-get", "echo never")
    [line] = machine.asks().splitlines()
    assert line.endswith(ADVICE)


@pytest.mark.parametrize(
    ("refuses", "installed"), [("nothing", "chromium-headless-shell"), ("headless", "chromium")]
)
def test_as_root_it_installs_debians(machine: Machine, refuses: str, installed: str) -> None:
    machine.has("id", "echo 0")
    script = f'echo "$@" >> {machine.programs}/asked\ncase "$*" in *{refuses}*) exit 100;; esac'
    machine.has("apt-get", script)
    assert machine.asks() == "installing chromium-headless-shell\n"
    update, *_, install = (machine.programs / "asked").read_text().splitlines()
    assert update.split()[0] == "update"
    assert (install.split()[0], install.split()[-1]) == ("install", installed)


def test_after_a_failed_installation_it_says_what_to_install(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("apt-get", "exit 100")
    assert machine.asks().splitlines()[-1].endswith(ADVICE)


def test_without_one_the_page_tests_are_skipped_and_in_ci_they_fail(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(machine.programs))
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=ADVICE):
        chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=ADVICE):
        chromium()
    named = str(machine.has("my-browser"))
    monkeypatch.setenv("CHROMIUM", named)
    assert chromium() == named
