"""The queue of one reader, bounded however slow the reader is.

Pure. It conflates absolute values to the newest of each topic. It keeps the newest `buffer` trades;
dropped ones become one Gap per token, ahead of the token's remaining trades.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from swapclient.events import CandlesUpdate, Event, Gap, Refused, TradesUpdate
from swapclient.messages import Message
from swapclient.topics import CURSORS, Cursor, Topic

CANDLES_KEPT: Final = 300


class Inbox:
    """The cursors and queued events of one subscription.

    Calls `wake` when there is a new event. `buffer` is a number of trades.
    """

    def __init__(self, topics: Iterable[Topic], interval_ms: int, buffer: int) -> None:
        if buffer < 1:
            raise ValueError("buffer: give at least 1")
        self.topics = list(dict.fromkeys(topics))
        self.interval_ms = interval_ms
        self.error: Exception | None = None
        self.ended = False
        self.wake: Callable[[], None] = lambda: None
        self.conflated = 0
        """Events that were replaced by newer ones or dropped because the reader was slower."""
        self._cursors: dict[Topic, Cursor] = {each: CURSORS[each.channel]() for each in self.topics}
        self._newest: dict[Topic, Event] = {}
        self._refused: dict[Topic, Refused] = {}
        self._lost: dict[str, Gap] = {}
        self._stream: deque[TradesUpdate | Gap] = deque()
        self._weight = 0
        self._buffer = buffer

    def take(self, topic: Topic, message: Message) -> None:
        """Take a message of one of the topics."""
        for event in self._cursors[topic].take(message):
            self._refused.pop(topic, None)
            if isinstance(event, TradesUpdate | Gap):
                self._append(event)
            else:
                self._replace(topic, event)
            self.wake()

    def refuse(self, topic: Topic, code: str, message: str) -> None:
        """Queue the service's refusal of one of the topics."""
        self._refused[topic] = Refused(topic.channel, topic.token, code, message)
        self.wake()

    def resume(self, topic: Topic) -> dict[str, int] | None:
        """Return what the reader has, as `resume` of a request."""
        return self._cursors[topic].resume()

    def fail(self, error: Exception) -> None:
        """End the queue with an error, which `pop` raises after the queued events."""
        self.error = self.error or error
        self.end()

    def end(self) -> None:
        """End the queue; `pop` still returns the queued events."""
        self.ended = True
        self.wake()

    def pop(self) -> Event | None:
        """Return the next event or None. Raises the error after the last event."""
        event: Event | None = None
        if self._refused:
            event = self._refused.pop(next(iter(self._refused)))
        elif self._lost:
            event = self._lost.pop(next(iter(self._lost)))
        elif self._stream:
            taken = self._stream.popleft()
            self._weight -= _weight(taken)
            event = taken
        elif self._newest:
            event = self._newest.pop(next(iter(self._newest)))
        elif self.error is not None:
            raise self.error
        return event

    def _replace(self, topic: Topic, event: Event) -> None:
        before = self._newest.get(topic)
        if before is not None:
            self.conflated += 1
            event = _merged(before, event)
        self._newest[topic] = event

    def _append(self, event: TradesUpdate | Gap) -> None:
        self._stream.append(event)
        self._weight += _weight(event)
        while self._weight > self._buffer:
            self._lose(self._weight - self._buffer)

    def _lose(self, excess: int) -> None:
        """Drop the oldest event, or only its oldest trades if that is enough."""
        self.conflated += 1
        oldest = self._stream.popleft()
        self._weight -= _weight(oldest)
        if isinstance(oldest, Gap):
            self._note_lost(oldest)
            return
        gone, kept = oldest.trades[:excess], oldest.trades[excess:]
        if gone:
            self._note_lost(Gap(oldest.token, gone[0].n, gone[-1].n, False, "slow_reader"))
        if kept:
            rest = msgspec.structs.replace(oldest, trades=kept)
            self._stream.appendleft(rest)
            self._weight += _weight(rest)

    def _note_lost(self, gap: Gap) -> None:
        before = self._lost.get(gap.token)
        if before is not None:
            restarted = before.restarted or gap.restarted
            to_n = None if restarted else gap.to_n
            gap = Gap(gap.token, before.from_n, to_n, restarted, "slow_reader")
        self._lost[gap.token] = gap


def _weight(event: TradesUpdate | Gap) -> int:
    return max(1, len(event.trades)) if isinstance(event, TradesUpdate) else 1


def _merged(before: Event, event: Event) -> Event:
    """Conflate two events of a topic that carry absolute values."""
    if isinstance(event, Gap | Refused) or isinstance(before, Gap | Refused) or event.snapshot:
        return event
    if isinstance(event, CandlesUpdate) and isinstance(before, CandlesUpdate):
        by_time = {each.open_time: each for each in (*before.candles, *event.candles)}
        newest = [by_time[at] for at in sorted(by_time)][-CANDLES_KEPT:]
        return msgspec.structs.replace(event, snapshot=before.snapshot, candles=newest)
    return msgspec.structs.replace(event, snapshot=before.snapshot)
