"""Watches the site as its users see it: probes, REST answers, the archive's lag, the clients.

One thread. It keeps each observation with its time, and computes when something was last wrong.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.gameday.faults import Strike
from tests.gameday.helper import Helper
from tests.gameday.site import WEBS, Site

_EVERY_S: Final = 0.25
_ARCHIVE_FRESH_MS: Final = 6_000
# This many good observations in a row are a recovery: a second, or longer on a busy machine.
_LOOKS: Final = 3
_LINES: Final = 5
# The time before a fault, and the least time of one, whose patches are compared.
_BEFORE_MS: Final = 15_000
_LEAST_MS: Final = 5_000


@dataclass(frozen=True)
class Look:
    """One observation. `ready` is by web node.

    `archive_ms` is the age of the oldest unarchived swap, None if unknown. `archived` is true if
    every partition is being archived and does not lag.
    """

    at: int
    ready: dict[str, bool]
    reasons: list[str]
    degraded: list[str]
    answers: Counter[str]
    slowest_ms: float
    archived: bool
    archive_ms: int | None


@dataclass
class Recovery:
    """The effect of a fault. Seconds from the injection until recovery; None: no effect.

    `patch_ms` is how old 99 % of the patches were at most when clients received them, during the
    fault, and `patch_before_ms` the same of the time before it.
    """

    strike: Strike
    ready_s: float | None
    fresh_s: float | None
    archive_s: float | None
    recovered: bool
    least_fresh: int
    stale_s: float | None
    reasons: list[str]
    seen: Counter[str]
    answers: Counter[str]
    slowest_ms: float
    patch_ms: int | None = None
    patch_before_ms: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def total_s(self) -> float:
        """Seconds until users no longer noticed the fault."""
        return max(self.ready_s or 0.0, self.fresh_s or 0.0)


class Watch:
    """Observes four times a second inside the `with` block."""

    def __init__(self, site: Site, crowd: Helper, sockets: int, token: str) -> None:
        self._site, self._crowd, self._sockets, self._token = site, crowd, sockets, token
        self.looks: list[Look] = []
        self.faults: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_EVERY_S):
            try:
                self.looks.append(self._look())
            except Exception as error:
                self.faults.append(f"the watch failed: {type(error).__name__}: {error}")

    def _look(self) -> Look:
        at = _now_ms()
        seen = {node: self._site.readiness(node) for node in WEBS}
        answers: Counter[str] = Counter()
        slowest = 0.0
        for node in WEBS:
            for name, path in (
                ("stats", f"/api/tokens/{self._token}/stats"),
                ("candles", f"/api/tokens/{self._token}/candles"),
            ):
                answer, ms = self._answer(node, path)
                answers[f"{name} {answer}"] += 1
                slowest = max(slowest, ms)
        archive = self._site.archive_status()
        ages = [status["age_ms"] for status in archive if status["age_ms"] is not None]
        archived = bool(archive) and all(
            status["state"] == "archiving" and (status["age_ms"] or 0) < _ARCHIVE_FRESH_MS
            for status in archive
        )
        return Look(
            at=at,
            ready={node: bool(each["ready"]) for node, each in seen.items()},
            reasons=sorted({_short(r) for each in seen.values() for r in each["reasons"]}),
            degraded=sorted({_short(r) for e in seen.values() for r in e.get("degraded", [])}),
            answers=answers,
            slowest_ms=slowest,
            archived=archived,
            archive_ms=max(ages, default=None),
        )

    def _answer(self, node: str, path: str) -> tuple[str, float]:
        begun = time.monotonic()
        try:
            status = str(self._site.ask(node, path).status_code)
        except httpx.TransportError as error:
            status = type(error).__name__
        return status, (time.monotonic() - begun) * 1000

    # --- what it means ---

    def crowd(self) -> list[dict[str, Any]]:
        """The crowd's lines."""
        return [line for line in list(self._crowd.lines) if "fresh" in line]

    def well(self, since: int, archive: bool = True) -> bool:
        """Whether the newest looks, all of them after `since` (ms), see nothing wrong."""
        looks = [look for look in self.looks[-_LOOKS:] if look.at >= since]
        lines = [line for line in self.crowd()[-_LINES:] if line["at"] >= since]
        if len(looks) < _LOOKS or len(lines) < _LINES:
            return False
        return all(
            all(look.ready.values()) and (look.archived or not archive) for look in looks
        ) and all(line["fresh"] == self._sockets for line in lines)

    def _patch_p99(self, since: int, until_ms: int) -> int | None:
        """How old 99 % of the patches were at most that clients received in this time."""
        ages: Counter[int] = Counter()
        for line in self.crowd():
            if since <= line["at"] < until_ms:
                ages.update({int(age): count for age, count in line["ages"].items()})
        left = ages.total() / 100
        for age, count in sorted(ages.items(), reverse=True):
            left -= count
            if left < 0:
                return age
        return None

    def recovery(self, strike: Strike, until_ms: int, recovered: bool) -> Recovery:
        """What was seen from the strike up to `until_ms`."""
        looks = [look for look in self.looks if strike.at <= look.at < until_ms]
        lines = [line for line in self.crowd() if strike.at <= line["at"] < until_ms]
        seen: Counter[str] = Counter()
        answers: Counter[str] = Counter()
        for line in lines:
            seen.update(line["seen"])
        for look in looks:
            answers.update(look.answers)
        stale = [line["at"] for line in lines if line["stale"]]
        good = strike.at
        return Recovery(
            strike=strike,
            ready_s=_last_bad(((k.at, all(k.ready.values())) for k in looks), good),
            fresh_s=_last_bad(((n["at"], n["fresh"] == self._sockets) for n in lines), good),
            archive_s=_last_bad(((look.at, look.archived) for look in looks), good),
            recovered=recovered,
            least_fresh=min((line["fresh"] for line in lines), default=0),
            stale_s=(min(stale) - strike.at) / 1000 if stale else None,
            reasons=_most_seen([*_each(looks, "reasons"), *_each(looks, "degraded")]),
            seen=seen,
            answers=answers,
            slowest_ms=max((look.slowest_ms for look in looks), default=0.0),
            patch_ms=self._patch_p99(strike.at, max(strike.repaired_at, strike.at + _LEAST_MS)),
            patch_before_ms=self._patch_p99(strike.at - _BEFORE_MS, strike.at),
            notes=list(strike.notes),
        )


def _each(looks: Iterable[Look], name: str) -> list[str]:
    return [said for look in looks for said in getattr(look, name)]


def _most_seen(said: list[str]) -> list[str]:
    return [text for text, _ in Counter(said).most_common(4)]


def _last_bad(seen: Iterable[tuple[int, bool]], since: int) -> float | None:
    """Seconds from `since` to the first good observation after the last bad one; None: none bad."""
    ordered = list(seen)
    bad = [number for number, (_, good) in enumerate(ordered) if not good]
    if not bad:
        return None
    recovered = ordered[min(bad[-1] + 1, len(ordered) - 1)][0]
    return (recovered - since) / 1000


def _short(reason: str) -> str:
    """The reason without the numbers that change between observations."""
    words = [
        "N" if word.strip(".,;:()").replace(".", "").isdigit() else word for word in reason.split()
    ]
    return " ".join(words)[:110]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
