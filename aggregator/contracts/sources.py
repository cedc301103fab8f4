"""What a source publishes of itself on `swaps.source.<name>`, every second."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["evm", "exchange"]
SourceState = Literal[
    "standby", "starting", "catching_up", "live", "waiting", "stopped", "ended", "silent"
]


class SourceStatus(msgspec.Struct, frozen=True, gc=False):
    """The state of one source process; instants are ms since the epoch.

    `subject` is what the source reads: a chain, or the name of an exchange. `state` is "standby"
    while another process owns the source, "starting" until the journal is read and what was open is
    sent again, "catching_up" while the source is further back than its newest block or trade, then
    "live"; "waiting" while it retries an engine, a node or an exchange, and "stopped" when only a
    person can help; `note` says why. "ended" is a backfill that is done. A web node shows "silent"
    where no process reports any more, and drops what ended.
    Everything up to `sent_until` is in Kafka. `head` and `sent_block` are block numbers.
    `gaps_unfilled` counts runs of trades that are lost. `unpriced_tokens` are the trusted tokens
    without a reference price. `owner` is the process (host and pid) and `version` its release, for
    operators.
    """

    source: str
    kind: Kind
    subject: str
    state: SourceState
    as_of: int
    note: str = ""
    sent_until: int | None = None
    head: int | None = None
    sent_block: int | None = None
    last_event: int | None = None
    events: int = 0
    retractions: int = 0
    gaps_unfilled: int = 0
    unpriced_tokens: list[str] = []
    owner: str = ""
    version: str = ""
