"""The marker store in memory: the same guarantees as `RedisMarkers`, for tests without a server."""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.contracts.verdict import Verdict
from aggregator.stores.redis.markers import Claim, NewIncarnation


class MemoryMarkers:
    """`Markers` in a dict; `restart(keep)` is a crash that keeps the first `keep` decisions."""

    def __init__(self) -> None:
        self._decided: list[tuple[bytes, bool, tuple[int, int], Verdict]] = []
        self._bound = True

    def connect(self) -> None:
        """See `Markers`."""
        self._bound = True

    def ping(self) -> None:
        """See `Markers`."""
        if not self._bound:
            raise NewIncarnation("restarted")

    def claim(self, claims: Sequence[Claim]) -> list[Verdict]:
        """See `Markers`."""
        self.ping()
        return [self._claim(claim) for claim in claims]

    def restart(self, keep: int) -> None:
        """Forget all but the first `keep` decisions, as a server that lost its last second."""
        del self._decided[keep:]
        self._bound = False

    def close(self) -> None:
        """Nothing to give back."""

    def _claim(self, claim: Claim) -> Verdict:
        position = (claim.partition, claim.offset)
        swap = self._find(claim.marker, removed=False)
        retraction = self._find(claim.marker, removed=True)
        mine = retraction if claim.removed else swap
        if mine is not None:
            return mine[1] if mine[0] == position else Verdict.DUPLICATE
        if claim.removed:
            counted = swap is not None and swap[1] is Verdict.COUNTED
            verdict = Verdict.UNDONE if counted else Verdict.VOID
        elif retraction is not None:
            verdict = Verdict.VOID
        else:
            verdict = Verdict.LATE if claim.late else Verdict.COUNTED
        self._decided.append((claim.marker, claim.removed, position, verdict))
        return verdict

    def _find(self, marker: bytes, *, removed: bool) -> tuple[tuple[int, int], Verdict] | None:
        for held, kind, position, verdict in self._decided:
            if (held, kind) == (marker, removed):
                return position, verdict
        return None
