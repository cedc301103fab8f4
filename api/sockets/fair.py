"""Turns that are fair by subject: one with much to do does not delay one with little. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Turns(Generic[T]):
    """Items that wait, each for one or more subjects. The subjects take turns.

    An item that several subjects wait for comes up when the first of them has its turn, and is then
    done for all of them.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[T, None]] = {}
        self._subjects: dict[T, tuple[str, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._subjects)

    def __contains__(self, item: object) -> bool:
        return item in self._subjects

    def add(self, item: T, subjects: Iterable[str]) -> None:
        """Have the item wait for these subjects, behind what waits for them already."""
        self.discard(item)
        self._subjects[item] = tuple(subjects) or ("",)
        for subject in self._subjects[item]:
            self._waiting.setdefault(subject, {})[item] = None

    def discard(self, item: T) -> None:
        """The item waits no more."""
        for subject in self._subjects.pop(item, ()):
            waiting = self._waiting[subject]
            del waiting[item]
            if not waiting:
                del self._waiting[subject]

    def heads(self) -> list[T]:
        """The first item of each subject, that of the subject whose turn it is first."""
        return [next(iter(waiting)) for waiting in self._waiting.values()]

    def take(self, item: T) -> None:
        """Use the turn of the first subject that has the item at its head."""
        first = next(
            (name for name, waiting in self._waiting.items() if next(iter(waiting)) == item), None
        )
        if first is not None:
            # The subject goes behind the others, whether or not it has more to do.
            self._waiting[first] = self._waiting.pop(first)
            self.discard(item)
