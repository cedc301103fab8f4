"""What happens in one run, drawn from its seed: traffic, faults, and conditions to wait for.

A schedule is a list of plain values; the same seed gives the same list. How a step is done is the
concern of `run.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PARTITIONS: Final = 3
MINUTE: Final = 60_000


@dataclass(frozen=True)
class Burst:
    """Produce `size` swaps to `partitions`; `acked`: wait until the broker acknowledged them."""

    size: int
    partitions: tuple[int, ...] = tuple(range(PARTITIONS))
    acked: bool = True


@dataclass(frozen=True)
class Claimed:
    """Wait until Redis has written at least some claims of the last burst."""


@dataclass(frozen=True)
class Live:
    """Wait until every partition has an owner that has read and published all of the log."""


@dataclass(frozen=True)
class Start:
    """Start one more aggregator with SWAPS_FAULT = `fault`, unless three run already."""

    fault: str = ""


@dataclass(frozen=True)
class Fired:
    """Send swaps until the armed aggregator has met its fault."""

    kind: str


@dataclass(frozen=True)
class Kill:
    """Kill one of the running aggregators with -9."""

    pick: float


@dataclass(frozen=True)
class Terminate:
    """Send SIGTERM to one of the running aggregators and wait for its orderly end."""

    pick: float


@dataclass(frozen=True)
class Freeze:
    """Send SIGSTOP to one of the running aggregators."""

    pick: float


@dataclass(frozen=True)
class Dropped:
    """Wait until the group has reassigned the partitions of frozen aggregators."""


@dataclass(frozen=True)
class Thaw:
    """Send SIGCONT to all frozen aggregators."""


@dataclass(frozen=True)
class KillRedis:
    """Kill Redis with -9 and delete the share `lost` of what it wrote since the last burst.

    `lost` is 0 for nothing, below 1 for a tail of its log, 1 for its whole data directory.
    """

    lost: float


@dataclass(frozen=True)
class StartRedis:
    """Start Redis on the data that is left."""


@dataclass(frozen=True)
class RestartBroker:
    """Kill the broker with -9 and start it."""


@dataclass(frozen=True)
class KillNats:
    """Kill NATS with -9."""


@dataclass(frozen=True)
class StartNats:
    """Start NATS."""


Step = (
    Burst
    | Claimed
    | Live
    | Start
    | Fired
    | Kill
    | Terminate
    | Freeze
    | Dropped
    | Thaw
    | KillRedis
    | StartRedis
    | RestartBroker
    | KillNats
    | StartNats
)


@dataclass(frozen=True)
class Schedule:
    """One run; its first events lie `span_ms` before its start."""

    seed: int
    span_ms: int
    steps: tuple[Step, ...]


def _reload() -> list[Step]:
    """Make every owner load its snapshot, which shows what a zombie may have written there."""
    return [Live(), KillRedis(0.0), StartRedis()]


def _size(rng: random.Random) -> int:
    return rng.randrange(150, 450)


def _some(rng: random.Random) -> tuple[int, ...]:
    return tuple(sorted(rng.sample(range(PARTITIONS), rng.randrange(1, PARTITIONS + 1))))


def _burst(rng: random.Random) -> list[Step]:
    steps: list[Step] = [Burst(_size(rng), acked=rng.random() < 0.7)]
    return [*steps, Claimed()] if rng.random() < 0.6 else steps


def _kill(rng: random.Random) -> list[Step]:
    return [*_burst(rng), Kill(rng.random()), Start()]


def _terminate(rng: random.Random) -> list[Step]:
    return [*_burst(rng), Terminate(rng.random()), Start()]


def _at_point(name: str) -> Callable[[random.Random], list[Step]]:
    def steps(rng: random.Random) -> list[Step]:
        armed = Start(f"{name}:{rng.randrange(1, 4)}")
        alone: list[Step] = [Kill(rng.random())] if rng.random() < 0.3 else []
        return [*alone, armed, Burst(_size(rng)), Fired(name), Start()]

    return steps


def _add(rng: random.Random) -> list[Step]:
    return [Burst(_size(rng), acked=False), Start(), Burst(_size(rng))]


def _zombie(rng: random.Random) -> list[Step]:
    frozen = [Start(), Live(), *_burst(rng), Freeze(rng.random())]
    return [*frozen, Burst(_size(rng)), Dropped(), *_burst(rng), Thaw(), Burst(_size(rng))]


def _zombie_at_point(rng: random.Random) -> list[Step]:
    name = rng.choice(["after_judge", "after_apply"])
    armed = Start(f"{name}:{rng.randrange(1, 4)}:stop")
    frozen: list[Step] = [Start(), armed, Burst(_size(rng)), Fired("zombie_at_point")]
    woken: list[Step] = [Dropped(), *_burst(rng), Thaw(), Burst(_size(rng), _some(rng))]
    return [*frozen, *woken, *_reload()]


def _pause(rng: random.Random) -> list[Step]:
    return [*_burst(rng), Freeze(rng.random()), Burst(_size(rng)), Thaw()]


def _redis(lost: Callable[[random.Random], float]) -> Callable[[random.Random], list[Step]]:
    def steps(rng: random.Random) -> list[Step]:
        meanwhile: list[Step] = rng.choice(
            [
                [],
                [Burst(100)],
                [Kill(rng.random()), Start()],
                [Terminate(rng.random()), Start()],
            ]
        )
        after: list[Step] = [Burst(_size(rng), _some(rng))] if rng.random() < 0.5 else []
        down = [KillRedis(lost(rng)), *meanwhile, StartRedis()]
        return [*_burst(rng), Claimed(), *down, *after]

    return steps


def _broker(rng: random.Random) -> list[Step]:
    return [Burst(_size(rng), acked=rng.random() < 0.5), RestartBroker(), Burst(_size(rng))]


def _nats(rng: random.Random) -> list[Step]:
    meanwhile: list[Step] = rng.choice(
        [
            [Burst(_size(rng))],
            [Kill(rng.random()), Start(), Burst(_size(rng)), Claimed()],
            [KillRedis(0.0), StartRedis(), Burst(_size(rng)), Claimed()],
        ]
    )
    return [*_burst(rng), KillNats(), *meanwhile, StartNats()]


FAULTS: Final[dict[str, Callable[[random.Random], list[Step]]]] = {
    "redis_loses_tail": _redis(lambda rng: rng.uniform(0.05, 0.95)),
    "kill": _kill,
    "after_judge": _at_point("after_judge"),
    "zombie": _zombie,
    "redis_empty": _redis(lambda _: 1.0),
    "after_apply": _at_point("after_apply"),
    "broker": _broker,
    "mid_snapshot": _at_point("mid_snapshot"),
    "zombie_at_point": _zombie_at_point,
    "after_snapshot": _at_point("after_snapshot"),
    "redis_restart": _redis(lambda _: 0.0),
    "terminate": _terminate,
    "add": _add,
    "pause": _pause,
    "nats": _nats,
}


def schedule(seed: int) -> Schedule:
    """Return the run of `seed`: four faults, two of which rotate with the seed, to meet all."""
    rng = random.Random(seed)
    kinds = list(FAULTS)
    chosen = [kinds[2 * seed % len(kinds)], kinds[(2 * seed + 1) % len(kinds)]]
    chosen += rng.choices(kinds, k=2)
    rng.shuffle(chosen)
    steps: list[Step] = [Start()]
    if rng.random() < 0.5:
        steps.append(Start())
    steps += [Burst(_size(rng)), Live()]
    for kind in chosen:
        steps += FAULTS[kind](rng)
        if rng.random() < 0.5:
            steps.append(Live())
    steps.append(Burst(_size(rng), _some(rng)))
    if rng.random() < 0.5:
        steps += _reload()
    span_ms = rng.choice([4 * MINUTE, 70 * MINUTE, 5 * 60 * MINUTE, 24 * 60 * MINUTE + MINUTE])
    return Schedule(seed, span_ms, tuple(steps))
