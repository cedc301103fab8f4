"""Questions for the histories of tokens: one in flight per token, one answer for all askers.

An answer costs milliseconds of two threads and up to a megabyte. So the owner renders it once for
all askers of a token, and not at all if no asker waits any more. Questions wait here, by token,
until the hot loop takes some. It takes at most IN_FLIGHT at a time, which bounds the copies of
minutes in memory. A question that is older than its asker's patience is dropped.

Two threads use this module, so every method locks. Pure apart from that: the clock is a parameter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from aggregator.contracts.trades import HISTORY_MINUTES, HistoryRequest
from aggregator.runtime import metrics

IN_FLIGHT: Final = 4
"""Most answers between the hot loop's copy of the minutes and the end of the rendering."""
MOST_ASKERS: Final = 4_096
LONGEST_PATIENCE_MS: Final = 60_000


class HistoryQuestion(msgspec.Struct, frozen=True):
    """A question for the last trades of a token and its newest `minutes`."""

    partition: int
    token_id: str
    minutes: int


class _Asker(NamedTuple):
    reply: str
    deadline_ms: int


class _Waiting:
    """The question for one token, with all its askers."""

    def __init__(self) -> None:
        self.minutes = 0
        self.askers: list[_Asker] = []


_Key = tuple[int, str]


class HistoryDesk:
    """The waiting questions and those in flight; `now_ms` is a monotonic clock."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._waiting: dict[_Key, _Waiting] = {}
        self._in_flight: dict[_Key, list[_Asker]] = {}
        self._askers = 0

    def ask(self, partition: int, request: HistoryRequest, reply: str) -> None:
        """Add a question; `reply` is the NATS subject for the answer.

        It joins a waiting question for the same token. It does not join one in flight: trades may
        have been published between the copy for that one and this asker's subscription, and the
        answer would not have them.
        """
        patience_ms = min(max(request.patience_ms, 0), LONGEST_PATIENCE_MS)
        minutes = min(max(request.minutes, 0), HISTORY_MINUTES)
        with self._lock:
            if self._askers >= MOST_ASKERS:
                self._drop_expired()
            if self._askers >= MOST_ASKERS:
                metrics.HISTORY_QUESTIONS.labels("refused").inc()
                return
            waiting = self._waiting.setdefault((partition, request.token_id), _Waiting())
            waiting.minutes = max(waiting.minutes, minutes)
            waiting.askers.append(_Asker(reply, self._now_ms() + patience_ms))
            self._askers += 1

    def take(self) -> list[HistoryQuestion]:
        """Return the questions to answer next. Call `close` for each, answered or not."""
        if not self._waiting:
            return []
        taken = []
        with self._lock:
            self._drop_expired()
            for key, waiting in list(self._waiting.items()):
                if len(self._in_flight) >= IN_FLIGHT:
                    break
                if key in self._in_flight:
                    continue
                del self._waiting[key]
                self._askers -= len(waiting.askers)
                self._in_flight[key] = waiting.askers
                taken.append(HistoryQuestion(*key, waiting.minutes))
        return taken

    def expired(self, question: HistoryQuestion) -> bool:
        """Return whether every asker of a question in flight has given up."""
        now_ms = self._now_ms()
        with self._lock:
            askers = self._in_flight.get((question.partition, question.token_id), [])
            return all(asker.deadline_ms <= now_ms for asker in askers)

    def close(self, question: HistoryQuestion) -> list[str]:
        """End the flight of a question; return the reply subjects of the askers who still wait."""
        now_ms = self._now_ms()
        with self._lock:
            askers = self._in_flight.pop((question.partition, question.token_id), [])
        patient = [asker.reply for asker in askers if asker.deadline_ms > now_ms]
        _count_expired(len(askers) - len(patient))
        return patient

    def _drop_expired(self) -> None:
        now_ms = self._now_ms()
        for key, waiting in list(self._waiting.items()):
            patient = [asker for asker in waiting.askers if asker.deadline_ms > now_ms]
            expired = len(waiting.askers) - len(patient)
            if expired:
                self._askers -= expired
                waiting.askers = patient
                _count_expired(expired)
            if not patient:
                del self._waiting[key]


def _count_expired(askers: int) -> None:
    if askers:
        metrics.HISTORY_QUESTIONS.labels("expired").inc(askers)
