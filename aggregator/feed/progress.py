"""What a feed tells its operator while it runs: one line, rewritten on a terminal, and a summary.

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
    """Counts what is sent and reports it from time to time.

    `share` gives how much of the input is done (0 to 1), None where the input has no end; `queue`
    the messages that wait for the broker; `clock` seconds that never go back.
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
    _told_at: float = field(init=False)
    _told_events: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._start = self._told_at = self.clock()

    def tick(self) -> None:
        """Report if it is time to; cheap enough to call for every event."""
        now = self.clock()
        elapsed = now - self._told_at
        if elapsed < (_ON_TERMINAL_S if self.terminal else _ELSEWHERE_S):
            return
        rate = (self.events - self._told_events) / elapsed
        share = self.share()
        done = "" if share is None else f"  {share:.0%}"
        line = f"{self.events:,} events  {rate:,.0f}/s{done}  queue {self.queue():,}"
        self.write(f"{_REWRITE}{line}" if self.terminal else f"{line}\n")
        self._told_at, self._told_events = now, self.events

    def caught_up(self) -> None:
        """Report that the broker has taken all that lay in the past."""
        line = f"{self.events:,} events, caught up with the present"
        self.write(f"{_REWRITE if self.terminal else ''}{line}\n")

    def finish(self, failed: int, note: str = "") -> None:
        """The last line: what was sent in all, what the broker did not take, and a note."""
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
