"""Writes a game's report: Markdown, HTML with the timeline in it, and the timeline alone."""

from __future__ import annotations

import html
import re
from collections import Counter
from pathlib import Path
from typing import Final

from tests.gameday.game import Played, milliseconds, seconds
from tests.gameday.picture import timeline
from tests.gameday.plan import KINDS, plan
from tests.gameday.watch import Recovery

_HEAD: Final = (
    "#",
    "fault",
    "lasted",
    "ready again",
    "clients fresh again",
    "archive caught up",
    "patch p99 (before)",
    "what users saw",
)
_CSS: Final = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1500px;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #8886;padding:.3rem .5rem;
text-align:left;vertical-align:top}th{background:#8882}svg{width:100%;height:auto}
.bad{color:#c22}.good{color:#187a34}@media(prefers-color-scheme:dark){body{background:#15181c;
color:#dde}}
"""


def write(played: Played, directory: Path) -> list[Path]:
    """report.md, report.html and timeline.svg in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    picture = timeline(played)
    texts = {
        "timeline.svg": picture,
        "report.md": markdown(played),
        "report.html": page(played, picture),
    }
    paths = []
    for name, text in texts.items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def command(played: Played) -> str:
    """Return the command that plays the game again."""
    game = played.game
    options = [] if game.every_s == 60 else [f"--every {game.every_s:g}"]
    if game.kinds != plan(game.seed, len(game.kinds)):
        options.append(f"--only {','.join(game.kinds)}")
    arguments = f' ARGS="{" ".join(options)}"' if options else ""
    return (
        f"make gameday MINUTES={game.minutes:g} RATE={game.rate:g} SOCKETS={game.sockets} "
        f"SEED={game.seed}{arguments}"
    )


def markdown(played: Played) -> str:
    """The report as Markdown."""
    lines = ["# Game day", "", f"`{command(played)}`", "", *(f"- {s}" for s in _summary(played))]
    lines += ["", "![timeline](timeline.svg)", "", *table(played)]
    lines += ["", "| compared with the log | how many |", "|---|---|"]
    lines += [f"| {what} | {count:,} |" for what, count in played.outcome.compared.items()]
    if played.wrong:
        lines += ["", "## Wrong", "", *(f"- {_cell(each)}" for each in played.wrong)]
    return "\n".join(lines) + "\n"


def table(played: Played) -> list[str]:
    """The faults as lines of a Markdown table."""
    rows = [_row(recovery) for recovery in played.recoveries]
    lines = [" | ".join(_HEAD), "|".join("---" for _ in _HEAD)]
    lines += [" | ".join(map(_cell, row)) for row in rows]
    return [f"| {line} |" if "---" not in line else f"|{line}|" for line in lines]


def page(played: Played, picture: str) -> str:
    """The report as one self-contained HTML file."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in _HEAD)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _row(recovery)) + "</tr>"
        for recovery in played.recoveries
    )
    compared = "".join(
        f"<tr><td>{html.escape(what)}</td><td>{count:,}</td></tr>"
        for what, count in played.outcome.compared.items()
    )
    wrong = "".join(f"<li class=bad>{html.escape(each)}</li>" for each in played.wrong)
    verdict = "bad" if played.wrong else "good"
    summary = "".join(f"<li>{html.escape(each)}</li>" for each in _summary(played))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>Game day</title><style>{_CSS}</style><h1 class={verdict}>Game day</h1>"
        f"<p><code>{html.escape(command(played))}</code></p><ul>{summary}</ul>{picture}"
        f"<h2>Faults</h2><table><tr>{head}</tr>{rows}</table>"
        f"<h2>Compared with the log</h2><table>{compared}</table>"
        f"<h2>Wrong</h2><ul>{wrong or '<li class=good>nothing'}</ul></html>\n"
    )


def _summary(played: Played) -> list[str]:
    game, counts = played.game, played.counts
    names = {"C": "counted", "L": "late", "U": "undone", "D": "repeated", "M": "misplaced"}
    names |= {"T": "retracted first", "V": "void", "F": "forwarded twice"}
    fates = ", ".join(f"{counts.get(code, 0):,} {name}" for code, name in names.items())
    messages = sum(line["messages"] for line in played.crowd)
    silences = [line["silence_s"] for line in played.crowd]
    return [
        "everything is right" if not played.wrong else f"{len(played.wrong)} things are wrong",
        f"{len(played.recoveries)} faults in {(played.ended - played.begun) / 60_000:.1f} min, "
        f"{game.rate:g} swaps/s over {game.tokens} tokens, {game.sockets} WebSockets",
        f"{played.records:,} records: {fates}",
        f"{messages:,} messages to the clients; longest time without a frame on an open socket "
        f"{max(silences, default=0):.1f} s",
    ]


def _row(recovery: Recovery) -> list[str]:
    strike = recovery.strike
    lasted = (strike.repaired_at - strike.at) / 1000
    what = f"{strike.kind}: {KINDS[strike.kind]}"
    if strike.detail:
        what += f" ({strike.detail})"
    return [
        str(strike.number),
        what,
        f"{lasted:.1f} s",
        seconds(recovery.ready_s) if recovery.recovered else "never",
        seconds(recovery.fresh_s),
        seconds(recovery.archive_s),
        f"{milliseconds(recovery.patch_ms)} ({milliseconds(recovery.patch_before_ms)})",
        _seen(recovery),
    ]


def _seen(recovery: Recovery) -> str:
    """What users saw during the fault."""
    said: list[str] = []
    if recovery.stale_s is not None:
        said.append(f"stale numbers reported after {recovery.stale_s:.1f} s")
    if recovery.fresh_s is not None:
        said.append(f"{recovery.least_fresh} clients fresh at the lowest point")
    events = {what: n for what, n in recovery.seen.items() if what != "connected" and n}
    said += [f"{n} {what}" for what, n in sorted(events.items())]
    bad = {what: n for what, n in recovery.answers.items() if not what.endswith(" 200")}
    said += [f"REST {what}: {n}" for what, n in Counter(bad).most_common(4)]
    said += [f"“{reason}”" for reason in recovery.reasons[:3]]
    return "; ".join([*said, *recovery.notes]) or "nothing"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")
