"""CI runs what the README says, and the files of the code host are valid and name what exists."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from infra.embedded.jars import cache_directory
from tests.unit.packaging.files import ROOT, yaml_of

GITHUB = ROOT / ".github"
CI: dict[Any, Any] = yaml_of(".github/workflows/ci.yml")
[JOB] = CI["jobs"].values()
STEPS: list[dict[str, Any]] = JOB["steps"]


def recipe(target: str) -> list[str]:
    """The commands that make would run, without those that create .venv."""
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return re.findall(r'echo "== \w+"; (.+?) && echo', done.stdout)


def step(action: str) -> dict[str, Any]:
    [found] = [each for each in STEPS if each.get("uses", "").startswith(f"{action}@")]
    return found


def test_it_runs_on_every_pull_request_and_on_main() -> None:
    # YAML 1.1 reads the key `on` as true.
    triggers = CI[True]
    assert "pull_request" in triggers
    assert triggers["push"] == {"branches": ["main"]}


def test_it_runs_what_the_readme_says() -> None:
    [run] = [each for each in STEPS if "run" in each]
    assert run["run"] == ".ci/run"
    assert run["env"] == {"CI": "true"}
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert script[-1] == "exec make test"
    readme = (ROOT / "README.md").read_text()
    assert re.search(r"everything that CI checks.*?```sh\nmake test\n", readme, re.DOTALL)


def test_it_may_only_read() -> None:
    assert CI["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("used", [each["uses"] for each in STEPS if "uses" in each])
def test_actions_are_pinned_by_commit(used: str) -> None:
    """A tag of an action can be moved to other code; a commit cannot."""
    assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", used)


def test_it_caches_wheels_and_jars(monkeypatch: pytest.MonkeyPatch) -> None:
    python = step("actions/setup-python")["with"]
    assert python["cache"] == "pip"
    assert list(ROOT.glob(python["cache-dependency-path"]))
    jars = step("actions/cache")["with"]
    for variable in ("SWAPS_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert Path(jars["path"]).expanduser() == cache_directory()
    [pattern] = re.findall(r"hashFiles\('(.+)'\)", jars["key"])
    assert list(ROOT.glob(pattern))


def test_it_runs_the_oldest_python_that_is_supported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = JOB["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={versions[0]}"
    [image] = set(re.findall(r"^FROM python:(\d+\.\d+)", (ROOT / "Dockerfile").read_text(), re.M))
    assert image in versions


def test_pre_commit_runs_the_checks_of_make_test_and_needs_no_venv() -> None:
    hooks = [hook for repo in yaml_of(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    [hook] = hooks
    assert hook["entry"] == "make lint"
    lint = recipe("lint")
    assert len(lint) == 3
    assert recipe("test")[:3] == lint
    done = subprocess.run(
        ["make", "-n", "-W", "requirements.txt", "lint"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "-m pip install" in done.stdout


def test_dependabot_updates_directories_that_exist() -> None:
    manifests = {
        "pip": "pyproject.toml",
        "npm": "package.json",
        "gomod": "go.mod",
        "docker": "Dockerfile",
        "docker-compose": "docker-compose.yml",
        "github-actions": ".github/workflows/ci.yml",
    }
    named = set()
    for each in yaml_of(".github/dependabot.yml")["updates"]:
        for directory in each.get("directories", [each.get("directory")]):
            manifest = ROOT / directory.strip("/") / manifests[each["package-ecosystem"]]
            assert manifest.exists(), manifest
            named.add(manifest)
    assert {path for path in ROOT.glob("*/**/go.mod") if ".venv" not in path.parts} <= named


def test_code_owners_own_paths_that_exist() -> None:
    lines = (GITHUB / "CODEOWNERS").read_text().splitlines()
    patterns = [line.split()[0] for line in lines if not line.startswith("#")]
    assert "*" in patterns
    assert [p for p in patterns if p != "*" and not (ROOT / p.strip("/")).exists()] == []


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_forms_are_complete(form: str) -> None:
    template = yaml_of(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert {"name", "description", "body"} <= template.keys()
    ids = [each["id"] for each in template["body"]]
    assert len(ids) == len(set(ids))
    assert all(each["attributes"]["label"] for each in template["body"])
