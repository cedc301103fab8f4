"""promtool built from its pinned source, and what the dashboards and alerts ask Prometheus.

The first build of a machine compiles all of it, so it leaves out what it can: optimisation, and the
discovery by Kubernetes' API, which our configuration does not use and whose client is over a third
of the code. Go's own cache makes every later build a matter of a second.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import yaml

INFRA: Final = Path(__file__).parents[2] / "infra"
# The same for all that Go builds for the tests, so that the standard library is compiled once.
_ENV: Final = {
    **os.environ,
    "CGO_ENABLED": "0",
    "GOFLAGS": "-trimpath '-gcflags=all=-N -l'",
}
_PINNED: Final = INFRA / "prometheus/promtool"
_MODULE: Final = "github.com/prometheus/prometheus"
_TAGS: Final = "remove_all_sd,enable_dns_sd"


def build(directory: Path) -> Path:
    """The program, of the version of go.mod; the directory is for it and its source."""
    module = json.loads(_run("go", "mod", "download", "-json", _MODULE))
    source = directory / "prometheus"
    shutil.copytree(module["Dir"], source, copy_function=shutil.copyfile)
    for folder in source.rglob("*/"):
        folder.chmod(0o755)  # of Go's cache, which nobody may write to
    kubernetes = source / "discovery/kubernetes"
    shutil.rmtree(kubernetes)
    shutil.copytree(_PINNED / "left_out", kubernetes)
    for name in ("go.mod", "go.sum"):
        shutil.copy(_PINNED / name, directory)
    modfile = directory / "go.mod"
    _run("go", "mod", "edit", f"-replace={_MODULE}={source}", str(modfile))
    options = ["-mod=readonly", f"-modfile={modfile}", "-tags", _TAGS, "-ldflags=-s -w"]
    target = directory / "promtool"
    # It takes most of a minute of both cores the first time, so it lets other tests go first.
    _run("nice", "go", "build", *options, "-o", str(target), f"{_MODULE}/cmd/promtool")
    return target


def build_pprof(directory: Path) -> Path:
    """The program of `go tool pprof`, of the Go that is installed."""
    target = directory / "pprof"
    _run("nice", "go", "build", "-o", str(target), "cmd/pprof")
    return target


def _run(*command: str) -> bytes:
    done = subprocess.run(command, cwd=_PINNED, env=_ENV, check=True, stdout=subprocess.PIPE)
    return done.stdout


def told(promtool: Path, *arguments: str | Path, given: bytes | None = None) -> tuple[int, str]:
    """promtool's exit status, and what it wrote."""
    done = subprocess.run(
        [promtool, *arguments], input=given, capture_output=True, check=False, timeout=60
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def expressions() -> dict[str, str]:
    """Every expression by the panel or alert that it is of."""
    found = {}
    for path in sorted((INFRA / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for number, target in enumerate(panel["targets"]):
                found[f"{path.stem}: {panel['title']} {number}"] = target["expr"]
    rules = yaml.safe_load((INFRA / "prometheus/rules/swaps.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            found[rule["alert"]] = rule["expr"]
    return found
