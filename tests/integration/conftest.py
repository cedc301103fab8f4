"""Tools that more than one file of these tests uses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded.stack import Stack
from tests.support.archived import Archive, archive
from tests.support.promtool import build


@pytest.fixture(scope="session")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """promtool of the version that docker-compose runs; without Go the test is skipped."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed")
    return build(tmp_path_factory.mktemp("promtool"))


@pytest.fixture
def kept(stack: Stack) -> Iterator[Archive]:
    """The archive of one test."""
    with archive(stack.clickhouse.url) as found:
        yield found
