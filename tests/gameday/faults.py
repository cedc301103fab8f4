"""Injects each kind of fault into the site and removes it. Does not wait for recovery or judge."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.gameday.helper import Helper
from tests.gameday.site import AGGREGATORS, WEBS, Site, until

# How long a fault lasts before it is removed, in a game with a fault a minute.
_HOLD_S: Final = {
    "kill_aggregator": 5.0,
    "kill_archiver": 5.0,
    "kill_web": 3.0,
    "redis_away": 60.0,
    "partitioner": 5.0,
    "clickhouse_down": 20.0,
    "s3_down": 25.0,
    "nats_down": 10.0,
    "full_disk_redis": 10.0,
    "full_disk_clickhouse": 10.0,
    "full_disk_kafka": 10.0,
    "clock_jump": 5.0,
    "poison": 2.0,
    "reconnect_storm": 0.0,
    "jwks_rotation": 4.0,
}
_GIVEN_UP_S: Final = 30
_JUMPS: Final = {
    "90 s ahead, events and records": (90_000, 90_000),
    "10 min ahead, events alone: dead letters": (600_000, 0),
    "10 min back: late swaps": (-600_000, -600_000),
}
_TAIL_S: Final = 1.0


@dataclass
class Strike:
    """One fault as it happened. Times are ms since the epoch; `detail` is what was drawn."""

    number: int
    kind: str
    detail: str = ""
    at: int = 0
    repaired_at: int = 0
    notes: list[str] = field(default_factory=list)


class Faults:
    """Injects and removes faults; a `pace` below 1 shortens them."""

    def __init__(
        self, seed: int, site: Site, crowd: Helper, traffic: Helper, rate: float, pace: float
    ) -> None:
        self._rng = random.Random(f"faults:{seed}")
        self._site, self._crowd, self._traffic = site, crowd, traffic
        self._rate, self._pace = rate, pace
        self._tail = RedisTail(site.engines.redis.data)

    def close(self) -> None:
        """Stop watching Redis's log."""
        self._tail.close()

    def play(self, number: int, kind: str) -> Strike:
        """Inject a fault, hold it, remove it."""
        strike = Strike(number, kind)
        does = getattr(self, f"_{kind}", None) or self._by_prefix(kind)
        strike.at = _now_ms()
        undo = does(strike)
        time.sleep(_HOLD_S.get(kind, 0.0) * self._pace)
        if undo is not None:
            undo()
        strike.repaired_at = _now_ms()
        return strike

    def _by_prefix(self, kind: str) -> Callable[[Strike], Callable[[], None] | None]:
        engine = kind.removeprefix("kill_").removeprefix("full_disk_").removesuffix("_down")
        engine = engine.removesuffix("_away")
        if kind.startswith("full_disk_"):
            return lambda strike: self._full_disk(strike, engine)
        return lambda strike: self._kill_engine(engine)

    # --- processes ---

    def _kill_member(self, name: str, strike: Strike) -> Callable[[], None]:
        strike.detail = name
        self._site.kill(name)
        return lambda: self._site.launch(name)

    def _kill_aggregator(self, strike: Strike) -> Callable[[], None]:
        return self._kill_member(self._rng.choice(AGGREGATORS), strike)

    def _kill_archiver(self, strike: Strike) -> Callable[[], None]:
        return self._kill_member("archiver", strike)

    def _kill_web(self, strike: Strike) -> Callable[[], None]:
        return self._kill_member(self._rng.choice(WEBS), strike)

    def _zombie(self, strike: Strike) -> None:
        """Freeze a member until the group has one member less, then resume it."""
        strike.detail = self._rng.choice(AGGREGATORS)
        pid = self._site.members[strike.detail].pid
        os.kill(pid, signal.SIGSTOP)
        if not until(lambda: self._site.group_members() == len(AGGREGATORS) - 1, _GIVEN_UP_S):
            strike.notes.append(f"the group has not removed it within {_GIVEN_UP_S} s")
        os.kill(pid, signal.SIGCONT)

    # --- engines ---

    def _kill_engine(self, name: str) -> Callable[[], None]:
        engine = self._site.engine(name)
        engine.kill()
        return engine.start

    def _redis_tail(self, strike: Strike) -> Callable[[], None]:
        redis = self._site.engines.redis
        before = self._tail.size_before(_TAIL_S)
        redis.kill()
        lost = self._tail.cut(before)
        strike.detail = f"{lost:,} bytes of its log lost"
        return redis.start

    def _redis_empty(self, strike: Strike) -> Callable[[], None]:
        redis = self._site.engines.redis
        redis.kill()
        shutil.rmtree(redis.data)
        return redis.start

    def _full_disk(self, strike: Strike, engine: str) -> Callable[[], None]:
        self._site.fill_disk(engine)

        def undo() -> None:
            if self._site.free_disk(engine):
                strike.notes.append(f"{engine} had ended and was started again")

        return undo

    # --- what comes in ---

    def _poison(self, strike: Strike) -> None:
        count = max(40, round(self._rate / 10))
        strike.detail = f"{count} messages"
        self._traffic.order("poison", count=count)

    def _clock_jump(self, strike: Strike) -> None:
        strike.detail = self._rng.choice(list(_JUMPS))
        events, records = _JUMPS[strike.detail]
        jump = {"events_ms": events, "records_ms": records, "share": 0.2}
        self._traffic.order("jump", **jump, seconds=_HOLD_S["clock_jump"] * self._pace)

    def _partitioner(self, strike: Strike) -> None:
        strike.detail = "crc32"
        seconds = _HOLD_S["partitioner"] * self._pace
        self._traffic.order("misplace", partitioner="crc32", share=0.2, seconds=seconds)

    # --- clients ---

    def _reconnect_storm(self, strike: Strike) -> None:
        self._crowd.order("storm")

    def _jwks_rotation(self, strike: Strike) -> Callable[[], None]:
        """Publish the new key next to the old one, sign with it, and finally publish it alone."""
        issuer = self._site.issuer
        kid = issuer.new_key()
        issuer.show([*issuer.shown, kid])
        self._crowd.order("renew", key=str(issuer.directory / f"{kid}.pem"))
        strike.detail = f"to key {kid}"
        return lambda: issuer.show([kid])


class RedisTail:
    """Records the length of Redis's log, so that its last second can be cut off."""

    def __init__(self, data: Path) -> None:
        self._directory = data / "appendonlydir"
        self._sizes: deque[tuple[float, Path, int]] = deque(maxlen=200)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="redis-tail", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            try:
                for file in self._directory.glob("*.incr.aof"):
                    self._sizes.append((time.monotonic(), file, file.stat().st_size))
            except FileNotFoundError:
                continue  # a rewrite has removed it

    def size_before(self, seconds: float) -> dict[Path, int]:
        """The length that each file of the log had that long ago."""
        then = time.monotonic() - seconds
        return {file: size for at, file, size in list(self._sizes) if at <= then}

    def cut(self, before: dict[Path, int]) -> int:
        """Truncate the files to that length; return the bytes lost. The server must not run."""
        lost = 0
        for file, size in before.items():
            if file.exists() and file.stat().st_size > size:
                lost += file.stat().st_size - size
                os.truncate(file, size)
        return lost


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
