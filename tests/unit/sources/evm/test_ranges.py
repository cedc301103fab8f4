"""The length of a range against the limits that vendors have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.evm.ranges import RangeLength

BLOCKS = 2_000

Limit = Callable[[int, int], bool]
"""Whether a vendor answers for the blocks from..to, both included."""


def logs_in(first: int, last: int) -> int:
    """Logs of a range: three in each block, 60 in each of a dense stretch."""
    return sum(60 if 900 <= number < 1_000 else 3 for number in range(first, last + 1))


def at_most_blocks(most: int) -> Limit:
    return lambda first, last: last - first + 1 <= most


def at_most_logs(most: int) -> Limit:
    return lambda first, last: logs_in(first, last) <= most


def calls_until_read(limit: Limit, length: RangeLength, blocks: int = BLOCKS) -> tuple[int, int]:
    """Read all blocks; return the number of calls and of refusals."""
    calls = refusals = 0
    first = 0
    while first < blocks:
        last = min(blocks, first + length.blocks) - 1
        calls += 1
        if limit(first, last):
            length.answered(last - first + 1, 100 * logs_in(first, last))
            first = last + 1
        else:
            refusals += 1
            assert last > first, "a range of one block was refused"
            length.refused(last - first + 1)
            assert calls < 10_000
    return calls, refusals


@pytest.mark.parametrize(
    ("limit", "most_calls"),
    [
        pytest.param(at_most_logs(300), 120, id="alchemy: logs, names a range that works"),
        pytest.param(at_most_logs(301), 120, id="infura: logs"),
        pytest.param(at_most_blocks(100), 36, id="infura: blocks"),
        pytest.param(at_most_blocks(101), 36, id="quicknode: blocks"),
        pytest.param(at_most_blocks(99), 36, id="ankr: too wide"),
        pytest.param(at_most_blocks(128), 32, id="base: too large"),
        pytest.param(at_most_blocks(5), 460, id="a trial plan of 5 blocks"),
        pytest.param(at_most_logs(302), 120, id="silent: the connection is cut"),
        pytest.param(at_most_logs(299), 120, id="reth: logs"),
        pytest.param(at_most_blocks(1), 2_060, id="a block at a time"),
        pytest.param(lambda first, last: True, 1, id="no limit"),
    ],
)
def test_every_limit_is_found_with_few_calls(limit: Limit, most_calls: int) -> None:
    calls, _ = calls_until_read(limit, RangeLength(BLOCKS, begin=BLOCKS))
    assert calls <= most_calls


def test_a_ceiling_is_tested_seldom() -> None:
    length = RangeLength(BLOCKS)
    calls_until_read(at_most_blocks(5), length, 400)
    calls, refusals = calls_until_read(at_most_blocks(5), length, 4_000)
    assert refusals <= 12
    assert calls <= 850


def test_a_limit_that_rises_is_noticed() -> None:
    length = RangeLength(BLOCKS)
    calls_until_read(at_most_blocks(10), length)
    calls_until_read(at_most_blocks(500), length, 40_000)
    assert length.blocks > 100


def test_a_large_answer_shortens_the_next_range() -> None:
    length = RangeLength(1_000, most_bytes=1_000, begin=1_000)
    length.answered(1_000, 4_000)
    assert length.blocks == 250


def test_a_refusal_of_an_older_and_longer_question_is_known_already() -> None:
    length = RangeLength(1_000, begin=1_000)
    length.refused(1_000)
    length.refused(1_000)
    assert length.blocks == 500


def test_two_cuts_in_a_row_are_a_refusal_whatever_shorter_ranges_say() -> None:
    length = RangeLength(1_000)
    assert not length.cut(100)
    length.answered(37, 10)
    assert length.cut(100)
    assert length.blocks == 50
    assert not length.cut(50)
    length.answered(50, 10)
    assert not length.cut(50)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.integers(60, 4_000))
def test_all_blocks_are_read_whatever_the_limits(blocks: int, logs: int) -> None:
    def limit(first: int, last: int) -> bool:
        return last - first < blocks and logs_in(first, last) <= logs

    calls_until_read(limit, RangeLength(BLOCKS))
