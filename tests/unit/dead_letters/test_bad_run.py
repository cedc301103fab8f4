"""When a run of bad messages of a partition begins, and when it ends."""

from __future__ import annotations

import pytest

from aggregator.dead_letters.producer import BAD_RUN_WINDOW, BadRun
from aggregator.runtime.errors import BadMessage

BAD = BadMessage("rule", "side", "hold")


def noted(run: BadRun, messages: str) -> BadRun:
    """Note messages in log order: `b` is bad, `g` is good."""
    run.note(len(messages), [(place, BAD) for place, each in enumerate(messages) if each == "b"])
    return run


@pytest.mark.parametrize("messages", ["", "g" * 50, "bg" * 50, "b" * 5, "b" * 50 + "g" * 5])
def test_half_of_the_window_is_no_run(messages: str) -> None:
    assert noted(BadRun(window=10), messages).reason == ""


@pytest.mark.parametrize("messages", ["b" * 6, "g" * 50 + "b" * 6, "bg" * 50 + "bbb", "b" * 5_000])
def test_one_more_than_half_is_a_run_that_names_the_newest(messages: str) -> None:
    reason = noted(BadRun(window=10), messages).reason
    assert "of the last 10 messages were refused" in reason
    assert "rule: side: hold" in reason


def test_the_order_of_the_log_decides_within_one_poll() -> None:
    """501 bad messages, evenly mixed into 2,004, are no run, although 501 is half a window."""
    mixed = "bggg" * 501
    run = noted(BadRun(), mixed)
    assert run.reason == ""
    assert run.share == 0.25
    assert noted(BadRun(), "g" * 1_503 + "b" * 501).reason != ""


def test_it_does_not_matter_how_the_messages_are_polled() -> None:
    messages = "bbbgbgbbgggbbbbbbggggggggg" * 20
    whole = noted(BadRun(window=20), messages)
    by_one = BadRun(window=20)
    for each in messages:
        noted(by_one, each)
    assert by_one.share == whole.share
    assert by_one.reason == whole.reason


def test_good_messages_end_it() -> None:
    run = noted(BadRun(), "b" * BAD_RUN_WINDOW)
    assert run.share == 1.0
    noted(run, "g" * 499)
    assert run.reason
    noted(run, "g")
    assert run.reason == ""


def test_a_reason_is_short_whatever_the_message_holds() -> None:
    run = BadRun(window=2)
    run.note(2, [(place, BadMessage("rule", "side" * 999, "x" * 10**6)) for place in range(2)])
    assert len(run.reason) < 500
