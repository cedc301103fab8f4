"""Errors named by what the caller must do with them.

Every error that crosses a layer is one of these four, so a handler never has to guess: send the
message to the dead-letter topic, call again, release the partition, or stop the process.
"""

from __future__ import annotations

from typing import Final

_LONGEST_DETAIL: Final = 1_000
_LONGEST_FIELD: Final = 100
_SHOWN_END: Final = 200


class SwapsError(Exception):
    """Base class of every error that this program raises on purpose."""


class BadMessage(SwapsError):
    """One message cannot be counted: send it to the dead-letter topic and continue.

    `reason` is a stable code (see `aggregator.decoding.rules.REASONS`), `field` the event's field
    that breaks the rule ("" where no single field does), `detail` a sentence for a person. `field`
    and `detail` may repeat contents of the message, so both are cut to a bounded length.
    """

    def __init__(self, reason: str, field: str, detail: str) -> None:
        field = _bounded(field, _LONGEST_FIELD, 0)
        detail = _bounded(detail, _LONGEST_DETAIL, _SHOWN_END)
        super().__init__(f"{reason}: {field}: {detail}" if field else f"{reason}: {detail}")
        self.reason = reason
        self.field = field
        self.detail = detail


class Retry(SwapsError):
    """This call failed for a temporary reason: call again after a pause; nothing was lost."""


class Fenced(SwapsError):
    """A newer owner has this partition: ask Kafka, then take a new epoch or drop the partition."""


class Fatal(SwapsError):
    """Continuing would do harm: stop the process with this message."""


class ConfigError(Fatal):
    """The settings have faults; `faults` names all of them, one line each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("settings:\n" + "\n".join(f"  - {fault}" for fault in faults))
        self.faults = faults


def _bounded(text: str, longest: int, end: int) -> str:
    """Cut `text` in the middle to `longest` characters; keep the last `end`."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - end - 1]}…{text[len(text) - end :]}"
