"""What a restarted process of the service says of itself in its log, as one sentence to print.

Reads the structured log (a JSON object a line) of the present run of a process. A sentence claims
only what these lines say: without them there is none.
"""

from __future__ import annotations

import json
from typing import Any, Final

_COUNTING: Final = "counting after {after}"
_ARCHIVING: Final = "archiving after {after}"
CAUGHT_UP: Final = "caught up with the present"


def counting(log: str, partitions: int) -> str | None:
    """The aggregator has taken all `partitions` and counts at the log's end; None: not yet.

    A partition whose records Kafka had deleted meanwhile is named: these are lost.
    """
    taken = {each["partition"]: each for each in _entries(log, "partition_acquired")}
    live = {each["partition"]: each["next_offset"] for each in _entries(log, "partition_live")}
    if len(live) < partitions or any(live[each] < taken[each]["replay_to"] for each in live):
        return None
    if gaps := _entries(log, "gap"):
        return f"{_COUNTING}; {_lost(gaps)}"
    if all(each["restored"] for each in taken.values()):
        return f"{_COUNTING}; read on from the last saved offsets, nothing is lost"
    return f"{_COUNTING}; read the log again where nothing was saved yet, nothing is lost"


def archiving(log: str, partitions: int) -> str | None:
    """The archiver has taken all `partitions` and goes on; None: not yet."""
    if len({each["partition"] for each in _entries(log, "archiving")}) < partitions:
        return None
    if gaps := _entries(log, "archive_gap"):
        return f"{_ARCHIVING}; {_lost(gaps)}"
    return f"{_ARCHIVING}; read on from the last committed offsets, nothing is lost"


def feeding(log: str) -> str | None:
    """The feed has sent what was due while it was away; None: not yet."""
    if CAUGHT_UP not in log:
        return None
    return "feeding after {after}; what was due meanwhile is sent, repeats count once"


def serving(answer: dict[str, Any]) -> str | None:
    """`answer` of the web node's /readyz: it has the numbers of every partition; None: not yet."""
    partitions = answer.get("partitions") or []
    if not answer.get("ready") or not all(each.get("in_sync") for each in partitions):
        return None
    return (
        f"serving after {{after}}; in sync with all {len(partitions)} partitions, "
        "clients connect again by themselves"
    )


def _lost(gaps: list[dict[str, Any]]) -> str:
    ranges = ", ".join(
        f"{gap['first']} to {gap['behind'] - 1} of partition {gap['partition']}" for gap in gaps
    )
    return f"Kafka had deleted offsets {ranges}: these are lost"


def _entries(log: str, event: str) -> list[dict[str, Any]]:
    found = []
    for line in log.splitlines():
        # Cheap first: most lines are of other events, and the last may be half written.
        if f'"{event}"' in line:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("event") == event:
                found.append(entry)
    return found
