"""Answers of a chain that do not change, asked once and kept within a bound.

What exists is kept until the bound makes room for newer answers. What does not exist expires: a
contract may become a pool later. A failed question leaves no trace, so it is asked again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST_KNOWN: Final = 200_000
MOST_ABSENT: Final = 50_000
ABSENT_S: Final = 600.0
MOST_ASKED: Final = 50
"""Questions that may be under way together, so that a cold start does not flood a node."""


class AskedOnce(Generic[K, V]):
    """The answer to each key: None where there is none.

    `ask` gets a key and the block at whose state to ask. At most `known` answers are kept, least
    recently used out first, and at most `absent` keys without an answer, each for `absent_s`
    seconds of `clock`.
    """

    def __init__(
        self,
        ask: Callable[[K, str], Awaitable[V | None]],
        clock: Callable[[], float],
        *,
        known: int = MOST_KNOWN,
        absent: int = MOST_ABSENT,
        absent_s: float = ABSENT_S,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._most_known, self._most_absent, self._absent_s = known, absent, absent_s
        self._known: OrderedDict[K, V] = OrderedDict()
        self._absent: OrderedDict[K, float] = OrderedDict()
        self._asked: dict[K, asyncio.Task[V | None]] = {}
        self._room = asyncio.Semaphore(MOST_ASKED)

    def known(self, key: K) -> V | None:
        """Return the answer that is kept for a key, or None."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def learn(self, key: K, answer: V) -> None:
        """Keep an answer that came without a question."""
        self._absent.pop(key, None)
        self._known[key] = answer
        self._known.move_to_end(key)
        if len(self._known) > self._most_known:
            self._known.popitem(last=False)

    async def answers(self, keys: Iterable[K], block: str) -> dict[K, V | None]:
        """Return the answers to keys, asking concurrently for those that are not kept.

        A question that is under way is shared. Raises what a question raised, after all of them
        have ended, so that the answers which did come are kept.
        """
        answers: dict[K, V | None] = {}
        waited: dict[K, asyncio.Task[V | None]] = {}
        for key in dict.fromkeys(keys):
            found = self.known(key)
            if found is not None or self._is_absent(key):
                answers[key] = found
            else:
                waited[key] = self._question(key, block)
        if waited:
            # Another reader may wait for the same question: it goes on if this one is cancelled.
            ended = await asyncio.gather(
                *(asyncio.shield(task) for task in waited.values()), return_exceptions=True
            )
            for key, answer in zip(waited, ended, strict=True):
                if isinstance(answer, BaseException):
                    raise answer
                answers[key] = answer
        return answers

    def _question(self, key: K, block: str) -> asyncio.Task[V | None]:
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.ensure_future(self._ask_for(key, block))
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def _ask_for(self, key: K, block: str) -> V | None:
        async with self._room:
            return await self._ask(key, block)

    def _ended(self, key: K, task: asyncio.Task[V | None]) -> None:
        del self._asked[key]
        # Looking at the error keeps asyncio from reporting it a second time.
        if task.cancelled() or task.exception() is not None:
            return
        answer = task.result()
        if answer is not None:
            self.learn(key, answer)
            return
        self._absent[key] = self._clock() + self._absent_s
        self._absent.move_to_end(key)
        if len(self._absent) > self._most_absent:
            self._absent.popitem(last=False)

    def _is_absent(self, key: K) -> bool:
        until = self._absent.get(key)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self._absent[key]
        return False
