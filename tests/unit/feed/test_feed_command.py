"""The command line of the feed: options, their contradictions, and the progress it reports."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from aggregator.feed.options import add_options, faults_of
from aggregator.feed.progress import FeedProgress


def parsed(line: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    return vars(parser.parse_args(line.split()))


@pytest.mark.parametrize(
    "line",
    [
        "a.gz",
        "a.gz b.gz --speed 2.5 --shift-to-now --duplicates 0.01 --limit 10",
        "--live a.gz --rate 20 --loop",
        "a.gz --rate 20",
        "a.gz --continue",
        "a.gz --continue --origin 5 --since 2023-11-14T22:13:20Z --until 1700000000123",
        "--synthetic --rate 5 --tokens 7",
        "--synthetic --events 1000 --span 3h --end now --zipf 0 --seed 3",
        "--synthetic --events 1000 --rate 10 --duplicates 1",
    ],
)
def test_a_command_line_that_means_something(line: str) -> None:
    assert faults_of(parsed(line)) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("", "give FILEs of events, or --synthetic"),
        ("a.gz --synthetic --rate 1", "not both"),
        ("a.gz --rate 1 --speed 1", "two paces"),
        ("a.gz --live", "--live needs --rate"),
        ("a.gz --live --speed 2", "--rate, not --speed"),
        ("a.gz --live --rate 1 --shift-to-now", "--live and --shift-to-now"),
        ("a.gz --loop", "--loop needs --live"),
        ("a.gz --continue --rate 5", "--continue has its own pace and times"),
        ("a.gz --continue --shift-to-now", "--continue has its own pace and times"),
        ("a.gz --since 5", "--since needs --continue"),
        ("--synthetic --rate 1 --continue", "--continue is for FILEs"),
        ("a.gz --events 5", "--events is for --synthetic"),
        ("a.gz --span 5m", "--span is for --synthetic"),
        ("--synthetic", "--synthetic needs --rate or --events"),
        ("--synthetic --rate 5 --span 3h", "--span needs --events"),
        ("--synthetic --events 5 --end 1000", "--end needs --span"),
        ("--synthetic --events 5 --limit 5", "--limit is for FILEs"),
        ("--synthetic --events 5 --speed 5", "--speed is for FILEs"),
    ],
)
def test_a_contradiction_is_named(line: str, fault: str) -> None:
    assert any(fault in sentence for sentence in faults_of(parsed(line)))


def test_all_contradictions_are_named_together() -> None:
    assert len(faults_of(parsed("a.gz --synthetic --loop --speed 2"))) >= 4


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--rate 0", "a number above 0"),
        ("--rate nan", "a number above 0"),
        ("--speed fast", "a number above 0"),
        ("--tokens 0", "a whole number from 1"),
        ("--events 1.5", "a whole number from 1"),
        ("--events inf", "a whole number from 1"),
        ("--duplicates 2", "a share from 0 to 1"),
        ("--zipf -1", "a number from 0 to 100"),
        ("--span 3", "give a duration"),
        ("--origin tomorrow", "ms since the epoch, or ISO"),
        ("--end 2024-01-01", "ISO 8601 with a zone"),
    ],
)
def test_a_bad_value_is_refused_with_what_would_be_good(line: str, why: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=why):
        parsed(line)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("now", None),
        ("1700000000123", 1_700_000_000_123),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
    ],
)
def test_the_end_of_a_span(text: str, ms: int | None) -> None:
    assert parsed(f"--end {text}")["end"] == ms


class Screen:
    """Collects what is written, with a clock that the test sets."""

    def __init__(self, terminal: bool) -> None:
        self.now = 0.0
        self.written: list[str] = []
        self.share: float | None = 0.25
        self.progress = FeedProgress(
            write=self.written.append,
            terminal=terminal,
            clock=lambda: self.now,
            share=lambda: self.share,
            queue=lambda: 7,
        )


def test_off_a_terminal_a_line_comes_every_five_seconds() -> None:
    screen = Screen(terminal=False)
    for second in range(12):
        screen.now = float(second)
        screen.progress.events += 1_000
        screen.progress.tick()
    assert screen.written == [
        "6,000 events  1,200/s  25%  queue 7\n",
        "11,000 events  1,000/s  25%  queue 7\n",
    ]


def test_on_a_terminal_one_line_is_rewritten() -> None:
    screen = Screen(terminal=True)
    screen.share = None
    for tenth in range(11):
        screen.now = tenth / 10
        screen.progress.tick()
    assert screen.written == ["\r\x1b[2K0 events  0/s  queue 7"] * 2


def test_the_summary_names_repeats_unreadable_lines_and_failures() -> None:
    screen = Screen(terminal=False)
    screen.now = 2.0
    screen.progress.events, screen.progress.repeats, screen.progress.unreadable = 5_000, 50, 3
    screen.progress.finish(failed=2, note="seed 4")
    assert screen.written == [
        "fed 5,000 events in 2.0 s (2,500/s), 50 of them repeats, "
        "3 unreadable, sent as they are, 2 not delivered, seed 4\n"
    ]
