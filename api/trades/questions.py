"""Which owners are asked for which tokens' histories, and when.

An owner answers some tens of questions a second, and one question can cost it as much as a thousand
swaps. So few questions are out at a time: a window per partition, which shrinks when answers do not
come in time and grows again with each one that does. Where more tokens wait than the windows let
through, the subject with the fewest questions out is next, and no subject has more than
MOST_OF_A_SUBJECT out. A question that is not answered is asked again after a pause that doubles.

Pure; `api.trades.streams` sends the questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from aggregator.runtime.backoff import Backoff

WINDOW: Final = 8
"""Most questions out to the owner of one partition."""
MOST_OF_A_SUBJECT: Final = 16
ANSWER_WITHIN_MS: Final = 6_000
PATIENCE_MS: Final = 5_000
"""What the owner is told: an answer that it sends later than this would not arrive in time."""
FIRST_PAUSE_MS: Final = 100
LONGEST_PAUSE_MS: Final = 2_000
"""Between two questions that nobody is there to answer: they cost the owners nothing."""
FIRST_TIMEOUT_PAUSE_MS: Final = 1_000
LONGEST_TIMEOUT_PAUSE_MS: Final = 15_000


class QuestionPause:
    """The time before which a token is not asked for again; `not_before` is in ms."""

    def __init__(self, backoff: Backoff | None = None) -> None:
        self.not_before = 0
        self._backoff = backoff or Backoff()

    def reset(self, now_ms: int) -> None:
        """The last answer was used: the next question may follow soon."""
        self._backoff.reset()
        self.not_before = now_ms + FIRST_PAUSE_MS

    def allow(self) -> None:
        """Ask as soon as there is room, because something new is known."""
        self._backoff.reset()
        self.not_before = 0

    def unavailable(self, now_ms: int) -> None:
        """Nobody could answer."""
        self._wait(now_ms, FIRST_PAUSE_MS, LONGEST_PAUSE_MS)

    def timed_out(self, now_ms: int) -> None:
        """No answer came."""
        self._wait(now_ms, FIRST_TIMEOUT_PAUSE_MS, LONGEST_TIMEOUT_PAUSE_MS)

    def _wait(self, now_ms: int, first_ms: int, longest_ms: int) -> None:
        pause_s = self._backoff.pause_s(first_ms / 1_000, longest_ms / 1_000)
        self.not_before = now_ms + round(1_000 * pause_s)


class Question:
    """A question that is out; `id` is the wire's."""

    __slots__ = ("expires_at", "id", "minutes", "partition", "subject", "token_id")

    def __init__(
        self, token_id: str, partition: int, subject: str, minutes: int, expires_at: int
    ) -> None:
        self.token_id = token_id
        self.partition = partition
        self.subject = subject
        self.minutes = minutes
        self.expires_at = expires_at
        self.id = 0


class Candidate:
    """A token that may be asked for now."""

    __slots__ = ("partition", "subject", "token_id")

    def __init__(self, token_id: str, partition: int, subject: str) -> None:
        self.token_id = token_id
        self.partition = partition
        self.subject = subject


class Questions:
    """The questions of this node that are out, and the windows that bound them."""

    def __init__(self) -> None:
        self.out: dict[str, Question] = {}
        self._windows: dict[int, int] = {}
        self._of_partition: Counter[int] = Counter()
        self._of_subject: Counter[str] = Counter()

    def room(self, partition: int) -> bool:
        """Whether the partition's owner may be asked one more question."""
        return self._of_partition[partition] < self._windows.get(partition, WINDOW)

    def choose(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Those to ask now, in fair turns; `add` each before the next call.

        Of a subject's candidates the first ones are chosen.
        """
        by_subject: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            if self.room(candidate.partition):
                by_subject.setdefault(candidate.subject, []).append(candidate)
        for waiting in by_subject.values():
            waiting.reverse()
        out = {subject: self._of_subject[subject] for subject in by_subject}
        room = {
            partition: self._windows.get(partition, WINDOW) - self._of_partition[partition]
            for partition in {each.partition for some in by_subject.values() for each in some}
        }
        chosen = []
        while by_subject and any(room.values()):
            subject = min(by_subject, key=lambda each: out[each])
            if out[subject] >= MOST_OF_A_SUBJECT:
                break
            waiting = by_subject[subject]
            candidate = waiting.pop()
            if not waiting:
                del by_subject[subject]
            if room[candidate.partition] > 0:
                room[candidate.partition] -= 1
                out[subject] += 1
                chosen.append(candidate)
        return chosen

    def add(self, question: Question) -> None:
        """The question is out."""
        self.out[question.token_id] = question
        self._of_partition[question.partition] += 1
        self._of_subject[question.subject] += 1

    def answered(self, question: Question) -> None:
        """An answer came in time: the window of its partition grows."""
        self._remove(question)
        window = self._windows.get(question.partition, WINDOW)
        self._windows[question.partition] = min(window + 1, WINDOW)

    def timed_out(self, question: Question) -> None:
        """No answer came: the window of its partition is halved."""
        self._remove(question)
        window = self._windows.get(question.partition, WINDOW)
        self._windows[question.partition] = max(window // 2, 1)

    def withdraw(self, question: Question) -> None:
        """No answer can come: the connection or the owner is another one, or nobody is there."""
        self._remove(question)

    def expired(self, now_ms: int) -> list[Question]:
        """The questions whose answers are late."""
        return [each for each in self.out.values() if each.expires_at <= now_ms]

    def _remove(self, question: Question) -> None:
        if self.out.get(question.token_id) is not question:
            return
        del self.out[question.token_id]
        self._of_partition[question.partition] -= 1
        self._of_subject[question.subject] -= 1
        if not self._of_subject[question.subject]:
            del self._of_subject[question.subject]
