"""What `/debug/pprof/…` answers, whichever server was asked. Knows nothing of who may ask."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from aggregator.runtime.errors import SwapsError
from aggregator.runtime.profiling import flamegraph, heap, pprof, sampler
from aggregator.runtime.profiling.profile import Profile

PREFIX: Final = "/debug/pprof/"
LONGEST_S: Final = 120
_DEFAULT_S: Final = 10
_FORMATS: Final = ("pprof", "flamegraph", "folded")


class Kind(NamedTuple):
    """A profile that can be asked for, and the value that its picture shows unless told."""

    take: Callable[[float], Profile]
    values: tuple[str, ...]


KINDS: Final[Mapping[str, Kind]] = {
    "profile": Kind(sampler.sample, ("cpu", "wall", "samples")),
    "heap": Kind(heap.held, ("inuse_space", "inuse_objects")),
}
_one_at_a_time = threading.Lock()


class Unasked(SwapsError):
    """This cannot be answered; `status` is HTTP's, the text says what to ask instead."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Answer(NamedTuple):
    """A profile as it is sent."""

    content_type: str
    file: str
    body: bytes


def answer(name: str, query: Mapping[str, str]) -> Answer:
    """Take the profile `name` ("profile" or "heap") as the query says; blocks for `seconds`.

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
    if wanted == "flamegraph":
        return Answer("image/svg+xml", f"{name}.svg", flamegraph.svg(taken, value).encode())
    if wanted == "folded":
        text = flamegraph.folded(taken, value)
        return Answer("text/plain; charset=utf-8", f"{name}.folded", text.encode())
    return Answer("application/octet-stream", f"{name}.pb.gz", pprof.encode(taken))
