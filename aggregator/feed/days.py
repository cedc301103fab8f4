"""Repeats a recorded day without a seam, day after day, indefinitely.

The recording is moved to the present: its first midnight falls on an origin, and each repetition
follows the previous one at the recorded pace. The time, transaction and price of a repeated event
depend only on the recording, the origin and the number of the day. Two runs with the same origin
therefore send the same events, and an event that is sent twice counts once. Knows nothing of Kafka.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from hashlib import blake2b
from math import exp, log
from statistics import median
from typing import Final, NamedTuple

import msgspec

from aggregator.contracts.units import DAY_MS
from aggregator.feed.stream import Pacer, Record
from aggregator.feed.tape import decode_fields, read
from aggregator.runtime.errors import Fatal

# The median of this many last prices of a token is compared with that of its first prices: a single
# bad trade at either end must not shift the prices of all later days.
_ENDS: Final = 5
# A token whose price seems to double or halve within the day has bad trades, not a trend.
_MOST_TREND: Final = log(2)
_encode = msgspec.json.Encoder().encode


class _Priced(msgspec.Struct, gc=False):
    """The fields that scaling changes; an event without them keeps its values."""

    amount: str
    price_usd: str


_decode_priced = msgspec.json.Decoder(_Priced).decode


class _Event(NamedTuple):
    """One event of the recording; `at_ms` is since its first midnight."""

    at_ms: int
    line: bytes
    key: bytes
    tx_hash: str
    priced: _Priced | None


class Days:
    """The recording `lines`, moved so that its first midnight (UTC) falls on `origin_ms`.

    Without an origin it keeps its own date, so every trade keeps its time of day. The whole
    recording is held in memory. Lines that are not events are left out.
    """

    def __init__(self, lines: Iterable[bytes], origin_ms: int | None = None) -> None:
        """Read the recording. Raises Fatal where it has no event."""
        events = [event for line in lines if (event := _event(line)) is not None]
        if not events:
            raise Fatal("no event in these files has a time")
        events.sort(key=lambda event: event.at_ms)
        midnight = events[0].at_ms // DAY_MS * DAY_MS
        self.origin_ms = midnight if origin_ms is None else origin_ms
        self._events = [event._replace(at_ms=event.at_ms - midnight) for event in events]
        self._times = [event.at_ms for event in self._events]
        # A period of whole days keeps the time of day of every trade.
        self.period_ms = (self._times[-1] // DAY_MS + 1) * DAY_MS
        self._trends = _trends(self._events)

    def events(self, since_ms: int, until_ms: int | None) -> Iterator[Record]:
        """Yield the events of (since_ms, until_ms] in order; None is without end."""
        number, since = divmod(since_ms - self.origin_ms, self.period_ms)
        first = bisect_right(self._times, since)
        while True:
            start_ms = self.origin_ms + number * self.period_ms
            for event in self._events[first:]:
                if until_ms is not None and start_ms + event.at_ms > until_ms:
                    return
                yield self._repeated(event, number, start_ms + event.at_ms)
            number, first = number + 1, 0

    def _repeated(self, event: _Event, number: int, timestamp: int) -> Record:
        identity = f"{self.origin_ms}:{number}:{event.tx_hash}"
        digest = blake2b(identity.encode(), digest_size=32).hexdigest()
        fields = decode_fields(event.line)
        fields["tx_hash"] = msgspec.Raw(f'"0x{digest}"'.encode())
        fields["timestamp"] = msgspec.Raw(b"%d" % timestamp)
        trend = self._trends.get(event.key, 0.0)
        if event.priced is not None and trend and number:
            scale = exp(_log_scale(trend, number, event.at_ms / self.period_ms))
            fields["price_usd"] = _scaled(event.priced.price_usd, scale)
            fields["amount"] = _scaled(event.priced.amount, 1 / scale)
        return Record(event.key, _encode(fields), timestamp)


def _event(line: bytes) -> _Event | None:
    record, envelope = read(line)
    if envelope is None or record.key is None or record.timestamp is None:
        return None
    try:
        priced = _decode_priced(line)
    except msgspec.MsgspecError:
        priced = None
    return _Event(record.timestamp, line, record.key, envelope.tx_hash, priced)


def _trends(events: list[_Event]) -> dict[bytes, float]:
    """Return, by token, the logarithm of the factor by which its price changes in the recording."""
    prices: dict[bytes, list[float]] = defaultdict(list)
    for event in events:
        if event.priced is not None and (price := float(event.priced.price_usd)) > 0:
            prices[event.key].append(price)
    found = {}
    for key, of_token in prices.items():
        if count := min(_ENDS, len(of_token) // 2):
            trend = log(median(of_token[-count:]) / median(of_token[:count]))
            if abs(trend) <= _MOST_TREND:
                found[key] = trend
    return found


def _log_scale(trend: float, number: int, share: float) -> float:
    """Return the logarithm of the factor that joins a repetition's prices to its neighbours'.

    `share` (0 to 1) is the elapsed part of the repetition. Repetition 0 has the recorded prices,
    and each earlier repetition ends at the price at which the next begins. After repetition 0, an
    odd one begins at the last price of the recording and reverses the trend, so that it ends at the
    first price. An even one then has the recorded prices again, so no price drifts away.
    """
    if number <= 0:
        return trend * number
    return trend * (1 - 2 * share) if number % 2 else 0.0


def _scaled(number: str, factor: float) -> msgspec.Raw:
    """Multiply a decimal number in text form by `factor`; the result has no exponent."""
    return msgspec.Raw(f'"{Decimal(f"{float(number) * factor:.15g}"):f}"'.encode())


def as_they_happen(
    records: Iterable[Record],
    pacer: Pacer,
    now_ms: Callable[[], int],
    caught_up: Callable[[], object],
) -> Iterator[Record]:
    """Yield each record at its event time, and past records immediately.

    `caught_up` is called once, before the first record that is still in the future.
    """
    catching_up = True
    for record in records:
        assert record.timestamp is not None
        ahead_ms = record.timestamp - now_ms()
        if ahead_ms > 0 and catching_up:
            catching_up = False
            caught_up()
        if not pacer.until(pacer.now() + ahead_ms / 1_000):
            return
        yield record
