"""One sentence about a restarted process of the service, derived from its log.

Reads the structured log (one JSON object per line) of the current run of a process. A sentence
claims only what these lines prove; without them there is no sentence.
"""

from __future__ import annotations

import json
from typing import Any, Final

_COUNTING: Final = "counting after {after}"
_ARCHIVING: Final = "archiving after {after}"
CAUGHT_UP: Final = "caught up with the present"


def counting(log: str, partitions: int) -> str | None:
    """Return a sentence once the aggregator owns all `partitions` and has replayed the whole log.

    None until then. Names the offsets that Kafka deleted meanwhile: these are lost. Names the
    partitions whose log may no longer hold all that belongs into their windows.
    """
    taken = {each["partition"]: each for each in _entries(log, "partition_acquired")}
    live = {each["partition"]: each["next_offset"] for each in _entries(log, "partition_live")}
    if len(live) < partitions or any(live[each] < taken[each]["replay_to"] for each in live):
        return None
    if gaps := _entries(log, "gap"):
        return f"{_COUNTING}; {_lost(gaps)}"
    if cut := sorted(each for each, entry in taken.items() if entry["cut"]):
        return f"{_COUNTING}; {_cut(cut)}"
    if all(each["restored"] for each in taken.values()):
        return f"{_COUNTING}; read on from the last saved offsets, nothing is lost"
    return f"{_COUNTING}; read the log again where nothing was saved yet, nothing is lost"


def archiving(log: str, partitions: int) -> str | None:
    """Return a sentence once the archiver owns all `partitions`; None until then."""
    if len({each["partition"] for each in _entries(log, "archiving")}) < partitions:
        return None
    if gaps := _entries(log, "archive_gap"):
        return f"{_ARCHIVING}; {_lost(gaps)}"
    return f"{_ARCHIVING}; read on from the last committed offsets, nothing is lost"


def feeding(log: str) -> str | None:
    """Return a sentence once the feed has sent what was due during its absence; None until then."""
    if CAUGHT_UP not in log:
        return None
    return "feeding after {after}; what was due meanwhile is sent, repeats count once"


def reading(log: str) -> str | None:
    """Return a sentence once a source has sent everything up to its newest block or trade."""
    if all(each.get("state") != "live" for each in _entries(log, "source_state")):
        return None
    return "reading after {after}; what it missed is sent, repeats count once"


def serving(answer: dict[str, Any]) -> str | None:
    """Return a sentence once the web node has the numbers of every partition; None until then.

    `answer` is the body of the node's /readyz.
    """
    partitions = answer.get("partitions") or []
    if not answer.get("ready") or not all(each.get("in_sync") for each in partitions):
        return None
    return (
        f"serving after {{after}}; in sync with all {len(partitions)} partitions, "
        "clients reconnect automatically"
    )


def _lost(gaps: list[dict[str, Any]]) -> str:
    ranges = ", ".join(
        f"{gap['first']} to {gap['end'] - 1} of partition {gap['partition']}" for gap in gaps
    )
    return f"Kafka had deleted offsets {ranges}: these are lost"


def _cut(partitions: list[int]) -> str:
    named = ", ".join(map(str, partitions))
    return (
        f"read the log again, which begins inside the longest window in partition {named}: "
        "the windows lack what Kafka had deleted"
    )


def _entries(log: str, event: str) -> list[dict[str, Any]]:
    found = []
    for line in log.splitlines():
        # Parse only lines that may match: most are other events. The last may be incomplete.
        if f'"{event}"' in line:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("event") == event:
                found.append(entry)
    return found
