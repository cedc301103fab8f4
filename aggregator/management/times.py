"""Days and instants as operators type them, for the options of commands.

Faults raise `ArgumentTypeError`, which argparse shows in one line with the name of the option.
"""

from __future__ import annotations

import datetime as dt
from argparse import ArgumentTypeError


def utc_day(text: str) -> dt.date:
    """Parse YYYY-MM-DD, `today` or `yesterday`, in UTC."""
    today = dt.datetime.now(dt.UTC).date()
    near = {"today": today, "yesterday": today - dt.timedelta(days=1)}
    try:
        return near[text] if text in near else dt.date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no day; give YYYY-MM-DD (UTC)") from None


def instant_ms(text: str) -> int:
    """Parse ISO 8601 (UTC unless it has a zone), or ms since the epoch; return the latter."""
    if text.isdigit():
        return int(text)
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError:
        message = f"{text!r} is no time; give ISO 8601 (UTC unless it has a zone) or ms since 1970"
        raise ArgumentTypeError(message) from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=dt.UTC)
    return round(when.timestamp() * 1000)
