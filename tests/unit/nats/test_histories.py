"""History questions: one in flight per token, one answer for all askers, none after a timeout."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from aggregator.contracts.trades import HistoryRequest
from aggregator.nats import histories
from aggregator.nats.histories import IN_FLIGHT, HistoryDesk, HistoryQuestion


class Desk:
    """A desk whose clock the test sets."""

    def __init__(self) -> None:
        self.now = 0
        self.desk = HistoryDesk(lambda: self.now)

    def ask(self, token: str, reply: str, minutes: int = 10, patience_ms: int = 1_000) -> None:
        self.desk.ask(0, HistoryRequest(token, minutes, patience_ms), reply)


def outcome(name: str) -> float:
    value = REGISTRY.get_sample_value("swaps_pubsub_questions_total", {"outcome": name})
    return value or 0.0


def test_all_askers_of_a_token_get_one_answer_with_the_most_minutes_asked_for() -> None:
    at = Desk()
    for number, minutes in enumerate((0, 300, 20)):
        at.ask("e:a", f"reply{number}", minutes)
    (question,) = at.desk.take()
    assert question == HistoryQuestion(0, "e:a", 300)
    assert at.desk.take() == []
    assert at.desk.close(question) == ["reply0", "reply1", "reply2"]


def test_a_question_after_the_copy_was_made_waits_for_the_next_copy() -> None:
    at = Desk()
    at.ask("e:a", "first")
    (question,) = at.desk.take()
    at.ask("e:a", "second")
    assert at.desk.take() == [], "one question of a token in flight"
    assert at.desk.close(question) == ["first"]
    (again,) = at.desk.take()
    assert at.desk.close(again) == ["second"]


def test_few_questions_are_in_flight_however_many_wait() -> None:
    at = Desk()
    for number in range(50):
        at.ask(f"e:{number}", "reply")
    taken = at.desk.take()
    assert [each.token_id for each in taken] == [f"e:{number}" for number in range(IN_FLIGHT)]
    assert at.desk.take() == []
    at.desk.close(taken[0])
    assert [each.token_id for each in at.desk.take()] == [f"e:{IN_FLIGHT}"]


def test_a_question_older_than_its_askers_patience_is_dropped_and_counted() -> None:
    before = outcome("expired")
    at = Desk()
    at.ask("e:a", "short", patience_ms=500)
    at.ask("e:a", "long", patience_ms=2_000)
    at.ask("e:b", "short", patience_ms=500)
    at.now = 500
    (question,) = at.desk.take()
    assert question.token_id == "e:a"
    assert not at.desk.expired(question)
    at.now = 2_000
    assert at.desk.expired(question)
    assert at.desk.close(question) == []
    assert outcome("expired") - before == 3


def test_askers_are_bounded_and_the_refused_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "MOST_ASKERS", 3)
    before = outcome("refused")
    at = Desk()
    for number in range(5):
        at.ask("e:a", f"reply{number}")
    assert outcome("refused") - before == 2
    at.now = 5_000
    at.ask("e:b", "later")
    assert [each.token_id for each in at.desk.take()] == ["e:b"]


def test_minutes_and_patience_of_a_request_are_bounded() -> None:
    at = Desk()
    at.ask("e:a", "reply", minutes=10**9, patience_ms=10**12)
    at.now = histories.LONGEST_PATIENCE_MS
    assert at.desk.take() == []
    at.ask("e:a", "reply", minutes=10**9)
    assert at.desk.take()[0].minutes == 2_880
