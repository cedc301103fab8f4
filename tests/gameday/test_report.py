"""The report of an invented game: every fault in the table, a timeline that can be parsed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from tests.gameday.faults import Strike
from tests.gameday.game import Game, Played
from tests.gameday.picture import _extremes
from tests.gameday.plan import KINDS
from tests.gameday.report import write
from tests.gameday.watch import Look, Recovery

BEGUN = 1_700_000_000_000


def made_up() -> Played:
    """A game with a fault a minute, each over after some seconds."""
    game = Game.of(3, minutes=len(KINDS) + 2, rate=100, sockets=300, every_s=60)
    ended = BEGUN + round(game.minutes * 60_000)
    played = Played(game, BEGUN, ended, records=7, counts={"C": 6, "L": 1})
    down: list[tuple[int, int]] = []
    for number, kind in enumerate(game.kinds, 1):
        at = BEGUN + number * 60_000
        strike = Strike(number, kind, "a <detail> | more", at, at + 9_000)
        down.append((at, at + 12_000 + 500 * number))
        played.recoveries.append(
            Recovery(
                *(strike, 12.0 + number / 2, 13.0, None, True, 150, 3.2, ["partition N is stale"]),
                *(Counter({"closed 1006": 150}), Counter({"stats 503": 2}), 40.0),
            )
        )
    for at in range(BEGUN, ended, 1_000):
        well = not any(begin <= at < end for begin, end in down)
        ready = {"web-1": well, "web-2": True}
        played.looks.append(Look(at, ready, [], [], Counter(), 1.0, well, 0 if well else 9_000))
        line = {"at": at, "fresh": 300 if well else 150, "messages": 10, "silence_s": 1}
        played.crowd.append(line)
    return played


def test_the_report_has_every_fault_and_the_picture_stands_alone(tmp_path: Path) -> None:
    played = made_up()
    write(played, tmp_path)
    picture = (tmp_path / "timeline.svg").read_text()
    ET.fromstring(picture)
    text = (tmp_path / "report.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "<detail>" in line]
    assert len(rows) == len(KINDS)
    assert all(row.replace("\\|", "").count("|") == 9 for row in rows)
    page = (tmp_path / "report.html").read_text()
    assert picture in page
    assert "&lt;detail&gt;" in page
    assert "src=" not in page
    assert "everything is right" in text
    played.wrong.append("T1 trades is 3, not 4")
    write(played, tmp_path)
    assert "T1 trades is 3, not 4" in (tmp_path / "report.md").read_text()
    assert "T1 trades is 3, not 4" in (tmp_path / "report.html").read_text()


def test_of_the_points_that_share_a_pixel_the_ends_are_drawn() -> None:
    points = [(0.0, 5.0), (0.1, 1.0), (0.2, 9.0), (1.0, 3.0), (1.5, 3.0)]
    assert _extremes(points, lambda at: at) == [(0.1, 1.0), (0.2, 9.0), (1.0, 3.0)]
