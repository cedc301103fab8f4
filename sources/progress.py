"""The line on a terminal that shows how far a source is while it reads past blocks. Pure."""

from __future__ import annotations

from aggregator.contracts.sources import SourceStatus

REWRITE = "\r\x1b[2K"


class SourceProgress:
    """Renders the status of a source; `to_block` is the last block, None for the head."""

    def __init__(self, to_block: int | None) -> None:
        self._to_block = to_block
        self._first: tuple[int, int] | None = None

    def line(self, status: SourceStatus) -> str:
        """Return the line, such as "block 1,200 of 5,000  400 events  300 blocks/s  13 s left"."""
        sent, end = status.sent_block, self._to_block if self._to_block is not None else status.head
        if sent is None or end is None:
            return f"{status.state}  {status.note}".rstrip()
        if self._first is None:
            self._first = sent, status.as_of
        parts = [f"block {sent:,} of {end:,}", f"{status.events:,} events"]
        begun, at_ms = self._first
        blocks, seconds = sent - begun, (status.as_of - at_ms) / 1000
        if blocks > 0 and seconds > 0:
            rate = blocks / seconds
            parts += [f"{rate:,.0f} blocks/s", f"{max(0, end - sent) / rate:,.0f} s left"]
        if status.state == "waiting":
            parts.append(f"waiting: {status.note}")
        return "  ".join(parts)
