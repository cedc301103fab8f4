"""The marker store in memory, with the guarantees of `RedisMarkers`, for tests without a server."""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.contracts.batch import MARKER_BYTES
from aggregator.contracts.verdict import Verdict
from aggregator.redis.markers import NewIncarnation

_Record = tuple[bytes, tuple[int, int], str]


class MemoryMarkers:
    """`Markers` in a dict; `restart(keep)` is a crash that keeps the first `keep` decisions."""

    def __init__(self) -> None:
        self._decided: list[tuple[bytes, bool, tuple[int, int], Verdict]] = []
        self._run = 0
        self._bound = 0
        self._asked: tuple[int, list[_Record]] = (0, [])

    def connect(self) -> None:
        """See `Session`."""
        self._bound = self._run

    def ping(self) -> None:
        """See `Session`."""
        self._check(self._bound)

    def close(self) -> None:
        """Do nothing: there is no connection to close."""

    def send(
        self, partition: int, offsets: Sequence[int], markers: Sequence[bytes] | bytes, kinds: str
    ) -> None:
        """See `Markers`."""
        if isinstance(markers, bytes):
            places = range(0, len(markers), MARKER_BYTES)
            markers = [markers[place : place + MARKER_BYTES] for place in places]
        records = zip(markers, offsets, kinds, strict=True)
        self._asked = (
            self._bound,
            [(marker, (partition, offset), kind) for marker, offset, kind in records],
        )

    def receive(self) -> str:
        """See `Markers`."""
        run, records = self._asked
        self._check(run)
        return "".join([self._decide(*record) for record in records])

    def claim(
        self, partition: int, offsets: Sequence[int], markers: Sequence[bytes] | bytes, kinds: str
    ) -> str:
        """See `Markers`."""
        self.send(partition, offsets, markers, kinds)
        return self.receive()

    def restart(self, keep: int) -> None:
        """Forget all but the first `keep` decisions, as a server that lost its last second."""
        del self._decided[keep:]
        self._run += 1

    def _check(self, run: int) -> None:
        if run != self._run:
            raise NewIncarnation("restarted")

    def _decide(self, marker: bytes, position: tuple[int, int], kind: str) -> Verdict:
        removed = kind == "R"
        swap = self._find(marker, removed=False)
        retraction = self._find(marker, removed=True)
        mine = retraction if removed else swap
        if mine is not None:
            return mine[1] if mine[0] == position else Verdict.DUPLICATE
        if removed:
            counted = swap is not None and swap[1] is Verdict.COUNTED
            verdict = Verdict.UNDONE if counted else Verdict.VOID
        elif retraction is not None:
            verdict = Verdict.VOID
        else:
            verdict = Verdict.LATE if kind == "L" else Verdict.COUNTED
        self._decided.append((marker, removed, position, verdict))
        return verdict

    def _find(self, marker: bytes, *, removed: bool) -> tuple[tuple[int, int], Verdict] | None:
        for held, kind, position, verdict in self._decided:
            if (held, kind) == (marker, removed):
                return position, verdict
        return None
