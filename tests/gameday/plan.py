"""Draws the faults and their order from a seed. Does not know how to inject them."""

from __future__ import annotations

import random
from itertools import cycle
from typing import Final

KINDS: Final[dict[str, str]] = {
    "kill_aggregator": "kill -9 of one of the two aggregators, started again after 5 s",
    "kill_archiver": "kill -9 of the archiver, started again after 5 s",
    "kill_web": "kill -9 of one of the two web nodes, started again after 3 s",
    "kill_kafka": "kill -9 of the broker, started again immediately",
    "kill_redis": "kill -9 of Redis with all its log kept, started again immediately",
    "kill_nats": "kill -9 of NATS, started again immediately",
    "kill_clickhouse": "kill -9 of ClickHouse, started again immediately",
    "kill_s3": "kill -9 of the object store, started again immediately",
    "zombie": "SIGSTOP of one aggregator until the group has reassigned its partitions, SIGCONT",
    "redis_tail": "kill -9 of Redis, the last second of its log cut off, started again",
    "redis_empty": "kill -9 of Redis, its data deleted, started again",
    "redis_away": "Redis is away for 60 s",
    "partitioner": "one of five producers chooses partitions by another hash",
    "clickhouse_down": "ClickHouse is away",
    "s3_down": "the object store is away while parts are due to move there",
    "nats_down": "NATS is away",
    "poison": "messages that cannot be decoded or break a rule, among the good ones",
    "clock_jump": "the clock of one of five producers jumps",
    "full_disk_redis": "Redis can write no file",
    "full_disk_clickhouse": "ClickHouse can write no file",
    "full_disk_kafka": "the broker can write no file",
    "reconnect_storm": "every WebSocket is cut; all reconnect immediately",
    "jwks_rotation": "a new key signs, the old one is withdrawn; sockets renew in place",
}
# Runs only if it is named; docs/gameday.md says why.
NOT_DRAWN: Final = {"full_disk_clickhouse"}
# No number may depend on how long Redis is away, so a longer day plays it several times.
OFTEN: Final = "redis_away"
# Consecutive seeds share a shuffle and start at different places in it, so that short runs of three
# such seeds cover every kind.
_SEEDS_OF_A_SHUFFLE: Final = 3


def plan(seed: int, count: int) -> list[str]:
    """Return `count` kinds; a kind repeats only after all others, but for every tenth fault."""
    family, place = divmod(seed, _SEEDS_OF_A_SHUFFLE)
    rng = random.Random(f"gameday:{family}")
    order = rng.sample(list(KINDS), len(KINDS))
    start = place * len(order) // _SEEDS_OF_A_SHUFFLE
    drawn = [kind for kind in order[start:] + order[:start] if kind not in NOT_DRAWN]
    kinds = cycle(drawn)
    return [OFTEN if number % 10 == 9 else next(kinds) for number in range(count)]
