"""Two schedules that together cover every fault of a service with an archive."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from infra.embedded.kafka import Kafka
from infra.embedded.stack import Stack
from tests.chaos.archive import FAULTS, Outcome, faults_of, play

SEEDS = range(2)


@pytest.fixture(scope="module")
def playing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Future[Outcome]]]:
    """All seeds, played in parallel."""
    directory = tmp_path_factory.mktemp("chaos-archive")
    with (
        Stack(directory / "kafka", only=(Kafka,)) as kafka,
        ThreadPoolExecutor(len(SEEDS)) as pool,
    ):
        yield {seed: pool.submit(play, seed, directory / f"{seed}", kafka) for seed in SEEDS}


def test_every_fault_is_met() -> None:
    assert {fault for seed in SEEDS for fault in faults_of(seed)} == set(FAULTS)


@pytest.mark.engines
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
def test_archive_and_windows_are_what_the_log_says(
    playing: dict[int, Future[Outcome]], seed: int
) -> None:
    outcome = playing[seed].result()
    assert outcome.findings.violations == []
    assert outcome.findings.checked > 10
    assert outcome.rows > 300
