"""Reports the progress of a feed to its operator: a line from time to time, then a summary.

Writes through a function that it is given; knows nothing of Kafka or files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

_ON_TERMINAL_S: Final = 0.5
_ELSEWHERE_S: Final = 5.0
_REWRITE: Final = "\r\x1b[2K"


@dataclass(slots=True, kw_only=True)
class FeedProgress:
    """Counts the sent events and reports them, on a terminal by rewriting one line.

    `share` returns the completed share of the input (0 to 1), None where the input has no end;
    `queue` the number of messages that wait for the broker; `clock` monotonic seconds.
    """

    write: Callable[[str], object]
    terminal: bool
    clock: Callable[[], float]
    share: Callable[[], float | None]
    queue: Callable[[], int]
    events: int = 0
    repeats: int = 0
    unreadable: int = 0
    _start: float = field(init=False)
    _reported_at: float = field(init=False)
    _reported_events: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._start = self._reported_at = self.clock()

    def tick(self) -> None:
        """Report if a report is due; cheap enough to call for every event."""
        now = self.clock()
        elapsed = now - self._reported_at
        if elapsed < (_ON_TERMINAL_S if self.terminal else _ELSEWHERE_S):
            return
        rate = (self.events - self._reported_events) / elapsed
        share = self.share()
        done = "" if share is None else f"  {share:.0%}"
        line = f"{self.events:,} events  {rate:,.0f}/s{done}  queue {self.queue():,}"
        self.write(f"{_REWRITE}{line}" if self.terminal else f"{line}\n")
        self._reported_at, self._reported_events = now, self.events

    def caught_up(self) -> None:
        """Report that the broker has accepted all past events."""
        line = f"{self.events:,} events, caught up with the present"
        self.write(f"{_REWRITE if self.terminal else ''}{line}\n")

    def finish(self, failed: int, note: str = "") -> None:
        """Write the summary: the events sent, those that were not delivered, and a note."""
        seconds = self.clock() - self._start
        rate = self.events / seconds if seconds > 0 else 0.0
        parts = [f"fed {self.events:,} events in {seconds:.1f} s ({rate:,.0f}/s)"]
        if self.repeats:
            parts.append(f"{self.repeats:,} of them repeats")
        if self.unreadable:
            parts.append(f"{self.unreadable:,} unreadable, sent as they are")
        parts.append(f"{failed:,} not delivered")
        if note:
            parts.append(note)
        self.write(f"{_REWRITE if self.terminal else ''}{', '.join(parts)}\n")
