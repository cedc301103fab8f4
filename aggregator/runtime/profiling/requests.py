"""The answers of `/debug/pprof/…`, for every server that offers it. Access is checked elsewhere."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from aggregator.runtime.errors import SwapsError
from aggregator.runtime.profiling import folded, heap, pprof, sampler
from aggregator.runtime.profiling.profile import Profile

PREFIX: Final = "/debug/pprof/"
LONGEST_S: Final = 120
_DEFAULT_S: Final = 10
_FORMATS: Final = ("pprof", "folded")


class ProfileKind(NamedTuple):
    """How to take a profile, and its kinds of values; folded lines show the first by default."""

    take: Callable[[float], Profile]
    values: tuple[str, ...]


KINDS: Final[Mapping[str, ProfileKind]] = {
    "profile": ProfileKind(sampler.sample, ("cpu", "wall", "samples")),
    "heap": ProfileKind(heap.held, ("inuse_space", "inuse_objects")),
}
_one_at_a_time = threading.Lock()


class Unasked(SwapsError):
    """The request cannot be answered: `status` is of HTTP, the text says what to ask instead."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ProfileAnswer(NamedTuple):
    """A profile in the form in which it is sent."""

    content_type: str
    file: str
    body: bytes


def answer(name: str, query: Mapping[str, str]) -> ProfileAnswer:
    """Take the profile `name` ("profile" or "heap") as `query` asks; block for `seconds`.

    Raises Unasked.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise Unasked(404, f"there are {PREFIX}profile and {PREFIX}heap")
    seconds = query.get("seconds", str(_DEFAULT_S))
    if not re.fullmatch(r"\d{1,3}(\.\d{1,3})?", seconds) or not 0 < float(seconds) <= LONGEST_S:
        raise Unasked(422, f"seconds: give a number up to {LONGEST_S}")
    wanted = query.get("format", "pprof")
    if wanted not in _FORMATS:
        raise Unasked(422, f"format: give one of {', '.join(_FORMATS)}")
    value = query.get("value", kind.values[0])
    if value not in kind.values:
        raise Unasked(422, f"value: give one of {', '.join(kind.values)}")
    if not _one_at_a_time.acquire(blocking=False):
        raise Unasked(409, "another profile is being taken; ask again when it is done")
    try:
        taken = kind.take(float(seconds))
    finally:
        _one_at_a_time.release()
    if wanted == "folded":
        text = folded.encode(taken, value)
        return ProfileAnswer("text/plain; charset=utf-8", f"{name}.folded", text.encode())
    return ProfileAnswer("application/octet-stream", f"{name}.pb.gz", pprof.encode(taken))
