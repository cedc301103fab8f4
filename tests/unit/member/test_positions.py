"""A jump in the offsets is accepted only when it repeats, so no record is skipped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aggregator.member.positions import Positions


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_contiguous_offsets_are_accepted() -> None:
    positions = Positions()
    positions.begin(0, 5)
    assert positions.keep(0, [5, 6, 7]) == (3, None)
    assert positions.keep(0, [8]) == (1, None)
    assert positions.keep_end(0, 9) == (True, None)


def test_a_partition_that_was_not_begun_gives_nothing() -> None:
    positions = Positions()
    assert positions.keep(0, [5]) == (0, None)
    assert positions.keep_end(0, 5) == (False, None)
    positions.begin(0, 5)
    positions.drop(0)
    assert positions.keep(0, [5]) == (0, None)


def test_a_client_that_went_to_the_end_is_sent_back() -> None:
    """The answer to an older look-up of the end offset undid the seek to 0."""
    positions = Positions()
    positions.begin(0, 0)
    assert positions.keep_end(0, 136) == (False, 0)
    assert positions.keep(0, list(range(136))) == (136, None)
    assert positions.keep_end(0, 136) == (True, None)


def test_a_jump_inside_a_batch_cuts_it() -> None:
    positions = Positions()
    positions.begin(0, 10)
    assert positions.keep(0, [10, 11, 30, 31]) == (2, 12)
    assert positions.keep(0, list(range(12, 32))) == (20, None)


def test_a_hole_of_the_log_shows_twice_and_later_holes_are_accepted_directly() -> None:
    positions = Positions()
    positions.begin(0, 0)
    assert positions.keep(0, [0, 2]) == (1, 1)
    assert positions.keep(0, [2, 4, 6]) == (3, None)
    assert positions.keep_end(0, 9) == (True, None)


def test_another_jump_from_the_same_offset_is_verified_too() -> None:
    positions = Positions()
    positions.begin(0, 0)
    assert positions.keep_end(0, 136) == (False, 0)
    assert positions.keep_end(0, 140) == (False, 0)
    assert positions.keep(0, [0]) == (1, None)


def test_what_was_read_before_may_come_again() -> None:
    positions = Positions()
    positions.begin(0, 3)
    assert positions.keep(0, [3, 4]) == (2, None)
    assert positions.keep(0, [3, 4]) == (2, None)
    assert positions.keep_end(0, 4) == (True, None)
    assert positions.keep(0, [5]) == (1, None)


def test_long_after_the_seek_no_look_up_can_be_under_way() -> None:
    clock = Clock()
    positions = Positions(clock)
    positions.begin(0, 0)
    clock.now = 121.0
    assert positions.keep(0, [7]) == (1, None)


@given(st.integers(1, 40), st.integers(0, 10), st.integers(0, 50), st.integers(1, 7))
def test_a_client_that_is_moved_once_skips_nothing(
    end: int, moved_at: int, to: int, most: int
) -> None:
    positions = Positions()
    positions.begin(0, 0)
    at, taken = 0, []
    for poll in range(200):
        at = max(at, min(to, end)) if poll == moved_at else at
        offsets = list(range(at, min(at + most, end)))
        if offsets:
            kept, back_to = positions.keep(0, offsets)
            taken += offsets[:kept]
            at = offsets[-1] + 1 if back_to is None else back_to
        else:
            _, back_to = positions.keep_end(0, end)
            at = at if back_to is None else back_to
    assert taken == list(range(end))
