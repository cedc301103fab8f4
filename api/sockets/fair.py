"""Fair turns by subject: one with much work does not delay one with little. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Turns(Generic[T]):
    """Queue items, each for one or more subjects, and let the subjects take turns.

    An item that several subjects wait for is due at the turn of the first of them, and is then done
    for all of them.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[T, None]] = {}
        self._subjects: dict[T, tuple[str, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._subjects)

    def __contains__(self, item: object) -> bool:
        return item in self._subjects

    def add(self, item: T, subjects: Iterable[str]) -> None:
        """Append the item to the queues of these subjects; it leaves those it was in before."""
        self.discard(item)
        self._subjects[item] = tuple(subjects) or ("",)
        for subject in self._subjects[item]:
            self._waiting.setdefault(subject, {})[item] = None

    def discard(self, item: T) -> None:
        """Remove the item from all queues."""
        for subject in self._subjects.pop(item, ()):
            waiting = self._waiting[subject]
            del waiting[item]
            if not waiting:
                del self._waiting[subject]

    def heads(self) -> list[T]:
        """Return the first item of each subject, in the order of their turns."""
        return [next(iter(waiting)) for waiting in self._waiting.values()]

    def take(self, item: T) -> None:
        """Use the turn of the first subject that has the item at its head."""
        first = next(
            (name for name, waiting in self._waiting.items() if next(iter(waiting)) == item), None
        )
        if first is not None:
            # The subject moves to the end of the order, whether or not it has more items.
            self._waiting[first] = self._waiting.pop(first)
            self.discard(item)
