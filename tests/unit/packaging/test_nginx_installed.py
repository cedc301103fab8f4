"""nginx for the tests: `make test` installs it or says what to install."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.nginx import nginx
from tests.unit.packaging.test_browser import Machine

ADVICE = "apt-get install nginx, or set NGINX to its path"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, ".ci/nginx")


def test_one_that_is_there_or_named_is_enough(machine: Machine) -> None:
    assert machine.asks(NGINX=str(machine.has("my-nginx"))) == ""
    machine.has("nginx")
    assert machine.asks() == ""


def test_as_root_it_installs_debians_without_starting_its_service(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("apt-get", f'echo "$RUNLEVEL $@" >> {machine.programs}/asked')
    assert machine.asks(NGINX="absent-nginx") == "installing nginx\n"
    _, install = (machine.programs / "asked").read_text().splitlines()
    assert (install.split()[:2], install.split()[-1]) == (["1", "install"], "nginx")


@pytest.mark.parametrize("user", ["1000", "0"])
def test_without_one_it_says_what_to_install(machine: Machine, user: str) -> None:
    machine.has("id", f"echo {user}")
    machine.has("apt-get", "exit 100")
    assert machine.asks(NGINX="absent-nginx").splitlines()[-1].endswith(ADVICE)


def test_without_one_its_tests_are_skipped_and_in_ci_they_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NGINX", "absent-nginx")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=ADVICE):
        nginx()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=ADVICE):
        nginx()
