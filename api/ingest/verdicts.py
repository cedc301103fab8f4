"""The verdicts on the events of one body. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from aggregator.runtime.errors import BadMessage

MOST_ERRORS: Final = 100


class RefusedLine(msgspec.Struct, frozen=True):
    """An event that is not written, and why.

    `line` is its place in the body, from 1. `reason` is stable: a reason of the dead-letter topic
    (`not_json`, `missing`, `type`, `rule`, `future`), `chain` where the caller's token does not
    allow the chain, or `too_large`. `field` is the field at fault, "" where no single one is;
    `message` is for people.
    """

    line: int
    reason: str
    field: str
    message: str


class LineVerdicts:
    """The verdicts on the events of one body.

    `records` are the good ones as (key, value). `reasons` counts the others by reason; `errors` has
    the first MOST_ERRORS of them.
    """

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes]] = []
        self.reasons: Counter[str] = Counter()
        self.errors: list[RefusedLine] = []

    @property
    def refused(self) -> int:
        """The number of events that are not written."""
        return self.reasons.total()

    def refuse(self, line: int, error: BadMessage) -> None:
        """Note that an event is refused."""
        self.reasons[error.reason] += 1
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(RefusedLine(line, error.reason, error.field, error.detail))
