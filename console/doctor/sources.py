"""Checks the sources: that each one with a journal has a process that owns it."""

from __future__ import annotations

from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, Retry
from console.doctor.finding import Finding
from sources.journal import JournalsMissing
from sources.overview import SourceOverview, overview


def check(config: Config) -> list[Finding]:
    """Return the findings; none where no source has run, and while no broker answers."""
    try:
        return [of_source(each) for each in overview(config)]
    except (JournalsMissing, Retry):
        return []
    except Fatal as error:
        said, _, fix = str(error).partition("; ")
        return [Finding("FAIL", "sources", said, fix)]


def of_source(each: SourceOverview) -> Finding:
    """Return the finding for one source."""
    what = f"source {each.name}"
    if each.members:
        standby = f", {each.members - 1} standing by" if each.members > 1 else ""
        return Finding("OK", what, f"{each.position}, owned by {each.owner}{standby}")
    fix = "start run_source for it; ignore this for a backfill that is done, or a removed source"
    return Finding("WARN", what, f"{each.position}, no process owns it (last {each.owner})", fix)
