"""Questions for tokens' histories: one in flight per token, one answer for all who ask.

An answer costs milliseconds of two threads and up to a megabyte, so the owner does not do the same
work twice and does no work that nobody waits for. Questions wait here, by token, until the hot loop
takes some. It gets no more than IN_FLIGHT at a time, so no more copies of a token's minutes exist
than that. A question that is older than its asker's patience is dropped.

Used by two threads, so every method locks. Pure apart from that: the clock is a parameter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from aggregator.contracts.trades import HISTORY_MINUTES, HistoryRequest
from aggregator.runtime import metrics

IN_FLIGHT: Final = 4
"""Most answers between the hot loop's copy of the minutes and the end of their rendering."""
MOST_ASKERS: Final = 4_096
LONGEST_PATIENCE_MS: Final = 60_000


class HistoryQuestion(msgspec.Struct, frozen=True):
    """Somebody wants the last trades of a token and its newest `minutes`."""

    partition: int
    token_id: str
    minutes: int


class _Asker(NamedTuple):
    reply: str
    deadline_ms: int


class _Waiting:
    """The question of one token, and all who ask it."""

    def __init__(self) -> None:
        self.minutes = 0
        self.askers: list[_Asker] = []


_Key = tuple[int, str]


class HistoryDesk:
    """The questions that wait and those in flight; `now_ms` is a monotonic clock."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._waiting: dict[_Key, _Waiting] = {}
        self._in_flight: dict[_Key, list[_Asker]] = {}
        self._askers = 0

    def ask(self, partition: int, request: HistoryRequest, reply: str) -> None:
        """Note a question; `reply` is the subject to answer on.

        It joins a question of the same token that still waits. It does not join one in flight:
        trades may have been published between that one's copy and this asker's subscription.
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
        """The questions to answer next; call `close` for each, answered or not."""
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
        """Whether nobody waits for the answer of a question in flight any more."""
        now_ms = self._now_ms()
        with self._lock:
            askers = self._in_flight.get((question.partition, question.token_id), [])
            return all(asker.deadline_ms <= now_ms for asker in askers)

    def close(self, question: HistoryQuestion) -> list[str]:
        """The question is out of flight; the reply subjects of those who still wait."""
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
