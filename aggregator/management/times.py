"""Days and instants as an operator types them, for the commands' options.

Raises `ArgumentTypeError`, which argparse tells in one line with the option's name.
"""

from __future__ import annotations

import datetime as dt
from argparse import ArgumentTypeError


def utc_day(text: str) -> dt.date:
    """YYYY-MM-DD, `today` or `yesterday`, in UTC."""
    today = dt.datetime.now(dt.UTC).date()
    near = {"today": today, "yesterday": today - dt.timedelta(days=1)}
    try:
        return near[text] if text in near else dt.date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no day; give YYYY-MM-DD (UTC)") from None


def instant_ms(text: str) -> int:
    """ISO 8601, UTC unless it has a zone, or ms since the epoch; in ms since the epoch."""
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
