"""A short day: eight faults, about one every ten seconds; at the end every number is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gameday.game import Game, play
from tests.gameday.plan import plan
from tests.gameday.report import write

SEED = 0
FAULTS = 8


@pytest.mark.engines
@pytest.mark.timeout(900)
def test_a_short_day_ends_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    game = Game.of(SEED, minutes=2, rate=200, sockets=40, every_s=9, count=FAULTS)
    assert game.kinds == plan(SEED, FAULTS)
    with capsys.disabled():
        played = play(game, tmp_path / "site", lambda what: print(f"gameday: {what}"))
    assert played.wrong == []
    assert [each.strike.kind for each in played.recoveries] == game.kinds
    assert played.outcome.compared["rows of REST"] == 2 * game.tokens
    assert played.outcome.compared["clients"] == game.sockets
    assert played.outcome.compared["rows of raw_swaps"] > 1_000
    written = {path.name: path.read_text() for path in write(played, tmp_path / "report")}
    assert set(written) == {"report.md", "report.html", "timeline.svg"}
    assert all(kind in written["report.md"] for kind in game.kinds)
    assert written["timeline.svg"] in written["report.html"]
    assert "http://" not in written["report.html"].replace("http://www.w3.org/2000/svg", "")
