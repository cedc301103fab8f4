"""What happens in one run, drawn from its seed: traffic, faults, and conditions to wait for.

A schedule is a list of plain values; the same seed gives the same list. How a step is done is the
concern of `run.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tests.support.oracle import Rules

PARTITIONS: Final = 3
MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
WINDOWS: Final = (("5m", 5), ("1h", 60), ("24h", 1440))
RULES: Final = Rules(homes=PARTITIONS)


@dataclass(frozen=True)
class Burst:
    """Produce `size` swaps to `partitions`; `acked`: wait until the broker acknowledged them."""

    size: int
    partitions: tuple[int, ...] = tuple(range(PARTITIONS))
    acked: bool = True


@dataclass(frozen=True)
class Fill:
    """Produce `size` repeats of one swap to each partition, which nearly fill a block of ids."""

    size: int


@dataclass(frozen=True)
class Saved:
    """Wait until Redis has written something since the last burst."""


@dataclass(frozen=True)
class Counted:
    """Wait until all of the log is read and published, though Redis takes no save meanwhile.

    Partitions that had no owner when Redis went away are not waited for.
    """


@dataclass(frozen=True)
class CutRedis:
    """Make Redis refuse every write: it follows a master that is not there, or lacks replicas."""

    replica: bool


@dataclass(frozen=True)
class MendRedis:
    """Let Redis take writes again."""


@dataclass(frozen=True)
class CopyRedis:
    """Keep a copy of what Redis has on disk."""


@dataclass(frozen=True)
class RestoreRedis:
    """Kill Redis with -9, put the copy in the place of its data, and start it."""


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
class JumpClock:
    """Set the clock of one running aggregator's host `ahead_ms` ahead, or back if negative."""

    pick: float
    ahead_ms: int


@dataclass(frozen=True)
class MendClocks:
    """Set the clocks of all hosts right."""


@dataclass(frozen=True)
class Committed:
    """Wait until all of the log is counted, saved and committed, forwards included."""


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
    | Fill
    | Saved
    | Counted
    | CutRedis
    | MendRedis
    | CopyRedis
    | RestoreRedis
    | Live
    | Start
    | Fired
    | Kill
    | Terminate
    | Freeze
    | Dropped
    | Thaw
    | JumpClock
    | MendClocks
    | Committed
    | KillRedis
    | StartRedis
    | RestartBroker
    | KillNats
    | StartNats
)


@dataclass(frozen=True)
class Schedule:
    """One run; its first events lie `span_ms` before its start.

    `faults` are keys of FAULTS. `stamped`: the records carry the times of their events. `windows`
    are (name, minutes); `settings` are those of the aggregators, as in the environment.
    """

    seed: int
    span_ms: int
    steps: tuple[Step, ...]
    stamped: bool = False
    faults: tuple[str, ...] = ()
    rules: Rules = RULES
    windows: tuple[tuple[str, int], ...] = WINDOWS
    settings: tuple[tuple[str, str], ...] = ()


def _reload() -> list[Step]:
    """Make every owner load its snapshot, which shows what a zombie may have written there."""
    return [Live(), KillRedis(0.0), StartRedis()]


def _size(rng: random.Random) -> int:
    return rng.randrange(150, 450)


def _some(rng: random.Random) -> tuple[int, ...]:
    return tuple(sorted(rng.sample(range(PARTITIONS), rng.randrange(1, PARTITIONS + 1))))


def _burst(rng: random.Random) -> list[Step]:
    steps: list[Step] = [Burst(_size(rng), acked=rng.random() < 0.7)]
    return [*steps, Saved()] if rng.random() < 0.6 else steps


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
    name = rng.choice(["after_judge", "after_apply", "mid_snapshot", "after_snapshot"])
    armed = Start(f"{name}:{rng.randrange(1, 4)}:stop")
    frozen: list[Step] = [Start(), armed, Burst(_size(rng)), Fired("zombie_at_point")]
    woken: list[Step] = [Dropped(), *_burst(rng), Thaw(), Burst(_size(rng), _some(rng))]
    return [*frozen, *woken, *_reload()]


def _pause(rng: random.Random) -> list[Step]:
    return [*_burst(rng), Freeze(rng.random()), Burst(_size(rng)), Thaw()]


def _clock(rng: random.Random) -> list[Step]:
    """The clock of a host jumps, and what depends on it follows the elapsed time.

    No step ahead is so small that it is followed: the windows would truly end earlier.
    """
    jump = rng.choice([-3 * HOUR, -10 * MINUTE, -5_000, 10 * MINUTE, 25 * HOUR])
    meanwhile: list[Step] = rng.choice([[], [Start()], [Kill(rng.random()), Start()]])
    jumped = [JumpClock(rng.random(), jump), Burst(_size(rng)), *meanwhile, Committed()]
    return [Live(), *jumped, MendClocks(), *_burst(rng)]


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
        return [*_burst(rng), Saved(), *down, *after]

    return steps


def _redis_away(rng: random.Random) -> list[Step]:
    """Redis is away for many saves; the numbers go on, and everything is saved afterwards."""
    lost = rng.choice([0.0, 0.0, 0.5, 1.0])
    away: list[Step] = [Burst(_size(rng)), Counted(), Burst(_size(rng), _some(rng)), Counted()]
    meanwhile: list[Step] = rng.choice([[], [Kill(rng.random()), Start()], [Start()]])
    return [Live(), KillRedis(lost), *away, *meanwhile, StartRedis(), *_burst(rng)]


def _redis_read_only(rng: random.Random) -> list[Step]:
    away: list[Step] = [Burst(_size(rng)), Counted(), Burst(_size(rng)), Counted()]
    after: list[Step] = rng.choice([[], [Kill(rng.random()), Start()]])
    return [Live(), CutRedis(rng.random() < 0.5), *away, MendRedis(), *after, *_burst(rng)]


def _redis_restored(rng: random.Random) -> list[Step]:
    """An older copy of Redis's data; its owners live on, or others take over from the copy."""
    later = [*_burst(rng), Live(), *_burst(rng)]
    after: list[Step] = rng.choice([[], [Kill(rng.random()), Start()], [Burst(_size(rng))]])
    return [Live(), CopyRedis(), *later, RestoreRedis(), *after]


def _broker(rng: random.Random) -> list[Step]:
    return [Burst(_size(rng), acked=rng.random() < 0.5), RestartBroker(), Burst(_size(rng))]


def _nats(rng: random.Random) -> list[Step]:
    meanwhile: list[Step] = rng.choice(
        [
            [Burst(_size(rng))],
            [Kill(rng.random()), Start(), Burst(_size(rng)), Saved()],
            [KillRedis(0.0), StartRedis(), Burst(_size(rng)), Saved()],
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
    "redis_away": _redis_away,
    "add": _add,
    "redis_restored": _redis_restored,
    "redis_read_only": _redis_read_only,
    "pause": _pause,
    "clock": _clock,
    "nats": _nats,
}


# What would make a rebuild begin in the middle of a log that is longer than the windows need: then
# the counters of a token begin there too, and no oracle of the log knows where.
_LOSES_ALL: Final = {"redis_empty", "redis_away", "redis_restored"}


def schedule(seed: int) -> Schedule:
    """Return the run of `seed`: four faults, two of which rotate with the seed, to meet all."""
    rng = random.Random(seed)
    short = seed % 5 == 3
    kinds = list(FAULTS)
    chosen = [kinds[2 * seed % len(kinds)], kinds[(2 * seed + 1) % len(kinds)]]
    chosen += rng.choices(kinds, k=2)
    if short:
        chosen = ["kill" if kind in _LOSES_ALL else kind for kind in chosen]
    rng.shuffle(chosen)
    steps: list[Step] = []
    if seed % 2 == 1 or short:
        steps.append(Fill(8192 - rng.randrange(60, 600)))
    steps.append(Start())
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
    if short:
        return _short(seed, tuple(steps), tuple(chosen))
    span_ms = rng.choice([4 * MINUTE, 70 * MINUTE, 5 * HOUR, 24 * HOUR + MINUTE])
    return Schedule(
        seed,
        span_ms,
        tuple(steps),
        stamped=seed % 5 == 1,
        faults=tuple(chosen),
        rules=replace(RULES, partitioner=rng.choice(["murmur2", "crc32"])),
    )


def _short(seed: int, steps: tuple[Step, ...], faults: tuple[str, ...]) -> Schedule:
    """Return a run whose log clock passes MARKER_TTL several times."""
    return Schedule(
        seed,
        5 * HOUR,
        steps,
        stamped=True,
        faults=faults,
        windows=(("5m", 5), ("1h", 60)),
        rules=replace(RULES, grace_ms=HOUR, ttl_ms=80 * MINUTE),
        settings=(("WINDOWS", "5m,1h"), ("DRIFT", "10m"), ("MARKER_TTL", "80m")),
    )
