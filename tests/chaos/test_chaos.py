"""Ten schedules of kills, pauses, restarts and losses; then every number equals the oracle's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, explain, table
from tests.chaos.run import Result

SEEDS = range(10)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="module")
def playing(directory: Path) -> Iterator[dict[int, Future[Result]]]:
    """All seeds, played in parallel."""
    with Campaign(directory) as campaign:
        results = campaign.play_seeds(SEEDS)
        yield results
        print(table([each.result() for each in results.values() if each.done()]))


@pytest.mark.engines
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_counts_twice(
    playing: dict[int, Future[Result]], seed: int
) -> None:
    result = playing[seed].result()
    assert not result.failed, explain(result)
    assert result.findings.checked > 50
