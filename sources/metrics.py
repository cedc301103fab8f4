"""What a source reports of itself: its metrics, and the status that its heartbeat carries.

The parts of a source call these methods; nothing else sets a `swaps_source_*` metric.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Final, Literal

import structlog

from aggregator.contracts.sources import Kind, SourceState, SourceStatus
from aggregator.runtime import metrics
from aggregator.runtime.clock import wall_ms

EventKind = Literal["swap", "retraction", "repeat"]
Dropped = Literal["not_a_swap", "unknown_factory", "no_metadata", "undecodable", "too_large"]
Outcome = Literal["ok", "refused", "limited", "failed", "timeout"]

_OWNERLESS: Final = {"standby", "stopped", "ended"}
_LONGEST_NOTE: Final = 300

log = structlog.get_logger(__name__)


class SourceMetrics:
    """The metrics and the status of one source; times are seconds since the epoch."""

    def __init__(
        self, source: str, kind: Kind, subject: str, *, now_ms: Callable[[], int] = wall_ms
    ) -> None:
        """`subject` is what it reads: a chain, or the name of an exchange."""
        self._source = source
        self._now_ms = now_ms
        self._kind: Kind = kind
        self._subject = subject
        self._state: SourceState = "starting"
        self._note = ""
        self._kafka_fault = ""
        self._head: int | None = None
        self._sent_block: int | None = None
        self._sent_ms: int | None = None
        self._event_ms: int | None = None
        self._events = 0
        self._retractions = 0
        self._gaps_unfilled = 0
        self._missing: set[str] = set()
        self._priced: set[str] = set()
        metrics.SOURCE_OWNER.labels(source).set(0)
        metrics.SOURCE_REFERENCES_MISSING.labels(source).set(0)
        for outcome in ("filled", "unfilled"):
            metrics.SOURCE_GAPS.labels(source, outcome)

    def state(self, state: SourceState, note: str = "") -> None:
        """Set the state, with a sentence for operators where something is wrong.

        `standby` waits for the ownership, `starting` reads the journal, `catching_up` is further
        back than its newest block or trade, `live` is not, `waiting` retries an engine, a node or
        an exchange, `stopped` needs a person, `ended` is a backfill that is done.
        """
        if state != self._state:
            log.info("source_state", source=self._source, state=state, note=note)
        self._state, self._note = state, note[:_LONGEST_NOTE]
        metrics.SOURCE_OWNER.labels(self._source).set(state not in _OWNERLESS)

    def kafka(self, fault: str) -> None:
        """Note what is wrong with Kafka, "" while it answers. The status says it first."""
        self._kafka_fault = fault[:_LONGEST_NOTE]

    def head(self, number: int) -> None:
        """Note the newest block that the node reports."""
        self._head = number
        metrics.SOURCE_HEAD.labels(self._source).set(number)

    def sent(self, at_s: float, block: int | None = None) -> None:
        """Note that everything up to the time `at_s` is in Kafka, and up to which block."""
        self._sent_ms = round(at_s * 1000)
        metrics.SOURCE_SENT.labels(self._source).set(at_s)
        if block is not None:
            self._sent_block = block
            metrics.SOURCE_SENT_BLOCK.labels(self._source).set(block)

    def events(self, kind: EventKind, count: int = 1) -> None:
        """Count events that Kafka has acknowledged."""
        if not count:
            return
        self._event_ms = self._now_ms()
        self._events += count
        self._retractions += count if kind == "retraction" else 0
        metrics.SOURCE_EVENTS.labels(self._source, kind).inc(count)

    def dropped(self, reason: Dropped, count: int = 1) -> None:
        """Count logs or messages that gave no event."""
        metrics.SOURCE_DROPPED.labels(self._source, reason).inc(count)

    def unpriced(self, reason: str, count: int = 1) -> None:
        """Count events without USD; `reason` is one of the pricer's codes."""
        metrics.SOURCE_UNPRICED.labels(self._source, reason).inc(count)

    def reference(self, token: str, price: Decimal | float | None, at_s: float | None) -> None:
        """Note a trusted token's reference price in USD, and the time that confirmed it.

        None is a token whose price is missing or too old.
        """
        if price is None:
            self._missing.add(token)
            if token in self._priced:
                self._priced.discard(token)
                metrics.SOURCE_REFERENCE_PRICE.remove(self._source, token)
        else:
            self._missing.discard(token)
            self._priced.add(token)
            metrics.SOURCE_REFERENCE_PRICE.labels(self._source, token).set(float(price))
        if at_s is not None:
            metrics.SOURCE_REFERENCE.labels(self._source, token).set(at_s)
        metrics.SOURCE_REFERENCES_MISSING.labels(self._source).set(len(self._missing))

    def held(self, token: str) -> None:
        """Count a move of a reference price that too few pools confirmed."""
        metrics.SOURCE_REFERENCE_HELD.labels(self._source, token).inc()

    def reorganisation(self, depth: int) -> None:
        """Count a reorganisation that took back `depth` sent blocks."""
        metrics.SOURCE_REORGS.labels(self._source).inc()
        metrics.SOURCE_REORG_DEPTH.labels(self._source).set(depth)

    def call(self, method: str, outcome: Outcome, count: int = 1) -> None:
        """Count calls of a node or an exchange; `method` is a name that the code lists."""
        metrics.SOURCE_CALLS.labels(self._source, method, outcome).inc(count)

    def range_blocks(self, blocks: int) -> None:
        """Note how many blocks a call for logs covers."""
        metrics.SOURCE_RANGE.labels(self._source).set(blocks)

    def reconnected(self) -> None:
        """Count a new connection after a cut or a silence."""
        metrics.SOURCE_RECONNECTS.labels(self._source).inc()

    def gap(self, *, filled: bool) -> None:
        """Count a run of trades that the connection missed."""
        self._gaps_unfilled += not filled
        metrics.SOURCE_GAPS.labels(self._source, "filled" if filled else "unfilled").inc()

    def journal_open(self, count: int) -> None:
        """Note how many announced blocks are not yet in Kafka."""
        metrics.SOURCE_JOURNAL_OPEN.labels(self._source).set(count)

    def status(self) -> SourceStatus:
        """Return the status as of now."""
        waits = self._kafka_fault and self._state not in {"stopped", "ended"}
        return SourceStatus(
            source=self._source,
            kind=self._kind,
            subject=self._subject,
            state="waiting" if waits else self._state,
            note=self._kafka_fault if waits else self._note,
            as_of=self._now_ms(),
            sent_until=self._sent_ms,
            head=self._head,
            sent_block=self._sent_block,
            last_event=self._event_ms,
            events=self._events,
            retractions=self._retractions,
            gaps_unfilled=self._gaps_unfilled,
            unpriced_tokens=sorted(self._missing),
        )
