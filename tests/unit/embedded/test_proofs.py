"""The log lines that prove that a restarted process works and that nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.embedded import proofs


def logged(*entries: dict[str, Any]) -> str:
    return "\n".join(["not JSON", *(json.dumps(entry) for entry in entries), '{"event": "part'])


def acquired(partition: int, *, restored: bool = True, cut: bool = False) -> dict[str, Any]:
    return {
        "event": "partition_acquired",
        "partition": partition,
        "restored": restored,
        "cut": cut,
        "replay_from": 5,
        "replay_to": 9,
    }


def live(partition: int, next_offset: int = 9) -> dict[str, Any]:
    return {"event": "partition_live", "partition": partition, "next_offset": next_offset}


GAP = {"event": "gap", "partition": 1, "first": 3, "end": 5}


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([], id="nothing"),
        pytest.param([acquired(0), live(0), acquired(1)], id="one is still replayed"),
        pytest.param([acquired(0), live(0)], id="one is not taken"),
        pytest.param(
            [acquired(0), live(0), acquired(1), live(1, 8)], id="not at the end of the log"
        ),
    ],
)
def test_an_aggregator_that_does_not_count_everything_yet(entries: list[dict[str, Any]]) -> None:
    assert proofs.counting(logged(*entries), 2) is None


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "read on from the last saved offsets, nothing is lost"),
        ([acquired(1, restored=False)], "read the log again where nothing was saved yet, nothing"),
        ([acquired(1, restored=False, cut=True)], "inside the longest window in partition 1: the"),
        ([GAP], "Kafka had deleted offsets 3 to 4 of partition 1: these are lost"),
    ],
)
def test_an_aggregator_that_counts(entries: list[dict[str, Any]], said: str) -> None:
    log = logged(acquired(0), live(0), acquired(1), live(1), *entries)
    found = proofs.counting(log, 2)
    assert found is not None
    assert found.startswith("counting after {after}; ")
    assert said in found
    complete = all(entry != GAP and not entry["cut"] for entry in entries)
    assert ("nothing is lost" in found) == complete


def test_an_archiver() -> None:
    one = {"event": "archiving", "partition": 0, "next_offset": 4}
    two = one | {"partition": 1}
    assert proofs.archiving(logged(one, one), 2) is None
    assert "nothing is lost" in (proofs.archiving(logged(one, two), 2) or "")
    gap = GAP | {"event": "archive_gap"}
    assert "offsets 3 to 4 of partition 1" in (proofs.archiving(logged(one, two, gap), 2) or "")


def test_a_web_node() -> None:
    synced, other = {"in_sync": True}, {"in_sync": False}
    assert proofs.serving({"ready": False, "partitions": [synced]}) is None
    assert proofs.serving({"ready": True, "partitions": [synced, other]}) is None
    said = proofs.serving({"ready": True, "partitions": [synced, synced]})
    assert said is not None
    assert said.format(after="2.0 s").startswith("serving after 2.0 s; in sync with all 2")


def test_a_feed() -> None:
    assert proofs.feeding("12 events  3/s  queue 0\n") is None
    assert proofs.feeding("123 events, caught up with the present\n") is not None


def test_a_source() -> None:
    states = [{"event": "source_state", "state": state} for state in ("starting", "live")]
    assert proofs.reading(logged(states[0])) is None
    said = proofs.reading(logged(*states))
    assert said is not None
    assert "repeats count once" in said
