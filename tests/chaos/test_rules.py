"""What the chaos relies on: its traffic meets every rule, its seeds meet every fault."""

from __future__ import annotations

import random

import pytest

from aggregator.contracts.event import block_check
from aggregator.contracts.homes import Homes
from tests.chaos.expected import Expected, logged_of
from tests.chaos.schedule import FAULTS, PARTITIONS, RULES, schedule
from tests.chaos.traffic import BLOCKS, FIRM, TOKENS, Traffic
from tests.support.oracle import home_of, label

NOW = 1_790_000_000_000
PARTITIONERS = ("murmur2", "crc32")


def test_ten_seeds_meet_every_fault_and_every_kind_of_run() -> None:
    schedules = [schedule(seed) for seed in range(10)]
    assert {fault for each in schedules for fault in each.faults} == set(FAULTS)
    assert {each.rules.partitioner for each in schedules} == set(PARTITIONERS)
    assert len({each.windows for each in schedules}) == 2
    assert {each.stamped for each in schedules} == {True, False}


@pytest.mark.parametrize("partitioner", PARTITIONERS)
def test_the_oracle_and_the_service_agree_on_homes(partitioner: str) -> None:
    rng = random.Random(1)
    ids = ["".join(rng.choices("abcXYZ019:-é", k=rng.randrange(1, 60))) for _ in range(2_000)]
    service = Homes(partitioner, 7)
    assert [home_of(each, 7, partitioner) for each in ids] == [service.of(each) for each in ids]


def test_no_two_blocks_of_the_traffic_look_alike_to_the_service() -> None:
    checks = {block_check(block.lower() if block[:2] == "0x" else block) for block in BLOCKS}
    assert len(checks) == len(BLOCKS)


@pytest.mark.parametrize("partitioner", PARTITIONERS)
def test_the_traffic_meets_every_verdict(partitioner: str) -> None:
    traffic = Traffic(1, NOW, 5 * 3_600_000, 20, PARTITIONS, partitioner, stamped=True)
    assert {traffic.home(token) for token in TOKENS} == set(range(PARTITIONS))
    sent = [each for _ in range(20) for each in traffic.burst(300, tuple(range(PARTITIONS)))]
    ends = [0] * PARTITIONS
    log = []
    for message in sent:
        at = ends[message.partition]
        ends[message.partition] += 1
        stamp = message.timestamp or 0
        log.append(logged_of(message.value, message.partition, at, stamp))
    rules = type(RULES)(homes=PARTITIONS, partitioner=partitioner, grace_ms=3_600_000)
    expected = Expected(log, rules)
    # F comes of forwarding alone.
    assert set(expected.letters) >= set("BCDILMNPTUVn")
    assert all(
        not expected.numbers(token, 2**63, NOW).retracted
        for token in expected.tokens
        if token.partition(":")[2] in FIRM
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("WETH", "WETH"),
        ("", None),
        (" ", None),
        ("\0\0", None),
        ("a\u200bb", "ab"),
        ("x" * 300, "x" * 256),
        ("0x" + "A" * 40, "0x" + "a" * 40),
        ("0xAB", "0xAB"),
    ],
)
def test_labels_of_the_oracle(text: str, shown: str | None) -> None:
    assert label(text) == shown
