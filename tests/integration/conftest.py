"""Tools that more than one file of these tests uses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_PROMTOOL = Path(__file__).parents[2] / "infra/prometheus/promtool"


@pytest.fixture(scope="session")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Go's own cache makes every build but the first a matter of a second.

    The first takes minutes of both cores (optimised even more), so it lets other tests go first.
    """
    if shutil.which("go") is None:
        pytest.skip("Go is not installed")
    target = tmp_path_factory.mktemp("promtool") / "promtool"
    package = "github.com/prometheus/prometheus/cmd/promtool"
    tags = "remove_all_sd,enable_dns_sd"
    quick = ["-tags", tags, "-gcflags=all=-N -l", "-ldflags=-s -w"]
    subprocess.run(
        ["nice", "go", "build", "-mod=readonly", *quick, "-o", target, package],
        cwd=_PROMTOOL,
        env={**os.environ, "CGO_ENABLED": "0"},
        check=True,
    )
    return target
