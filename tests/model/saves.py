"""What an aggregator saves in Redis, how a new owner loads it, and how it rebuilds without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.model.engines import FencedOff, ModelRedis
from tests.model.fold import PartitionState
from tests.model.rules import AHEAD, BLOCK, MAX_FUTURE, NEVER, SLOW, TTL, WINDOW

if TYPE_CHECKING:
    from tests.model.world import ModelWorld

Header = dict[str, Any]


def acquire_epoch(redis: ModelRedis, partition: int, epoch: int | None) -> int:
    """Take an epoch, or the next one. Raises FencedOff."""
    current = redis.get(("epoch", partition), 0)
    if epoch is None:
        epoch = current + 1
    elif epoch <= current:
        raise FencedOff
    redis.set(("epoch", partition), epoch)
    return epoch


def save_block(
    redis: ModelRedis, world: ModelWorld, partition: int, epoch: int, number: int, block: Any
) -> None:
    """Write a closed block, unless it is there. Raises FencedOff."""
    if redis.get(("epoch", partition), 0) > epoch:
        raise FencedOff
    if redis.get(("block", partition, number)) is None:
        expires = world.now + (10**6 if "blocks" in world.rules else TTL)
        redis.set(("block", partition, number), (block, expires))


def save(
    redis: ModelRedis,
    world: ModelWorld,
    partition: int,
    header: Header,
    before: tuple[int, int] | None,
    changed: dict[int, Any],
    blocks: dict[int, Any],
    whole: bool,
) -> bool:
    """Save; return False where the owner has to save whole.

    Redis then does not hold the save `before`, or not all blocks. Raises FencedOff.
    """
    if redis.get(("epoch", partition), 0) > header["epoch"]:
        raise FencedOff
    current = redis.get(("header", partition))
    if not whole:
        held = current and (current["epoch"], current["call"])
        if held == (header["epoch"], header["call"]):
            # It was made before, and its answer got lost.
            return True
        if held != before and "cas" in world.rules:
            return False
    redis.set(("epoch", partition), header["epoch"])
    for number, block in blocks.items():
        save_block(redis, world, partition, header["epoch"], number, block)
    if (
        "blocks" in world.rules
        and whole
        and any(redis.get(("block", partition, number)) is None for number in header["blocks"])
    ):
        return False
    old = {} if whole or not current else current["minutes"]
    redis.set(("header", partition), {**header, "minutes": {**old, **changed}})
    return True


def header_of(state: PartitionState, epoch: int, call: int, seq: int) -> Header:
    """Return the header of a save; it holds the open block's words."""
    tail = {
        offset: word for offset, word in state.words.items() if offset // BLOCK >= state.open_block
    }
    return {
        "epoch": epoch,
        "call": call,
        "seq": seq,
        "next_offset": state.next_offset,
        "clock": state.clock,
        "watermark": state.watermark,
        "floor": state.floor,
        "origins": dict(state.origins),
        "open_block": state.open_block,
        "first_block": state.first_block,
        "approximate": state.approximate,
        "tail": tail,
        "blocks": tuple(range(state.first_block, state.open_block)),
    }


def load(
    world: ModelWorld, redis: ModelRedis, connection: dict[int, int], partition: int
) -> tuple[PartitionState | None, Header | None]:
    """Return the saved state and its header, or (None, None)."""
    header = redis.call(connection, lambda redis: redis.get(("header", partition)))
    if not header:
        return None, None
    seen = header
    if "state" not in world.rules:
        seen = redis.call(connection, lambda redis: redis.get(("seen", partition), header))
    state = PartitionState(world.rules, header["next_offset"], header["floor"])
    state.clock, state.watermark = header["clock"], header["watermark"]
    state.origins, state.minutes = dict(header["origins"]), dict(header["minutes"])
    state.approximate = header["approximate"]
    state.open_block, state.first_block = header["open_block"], header["first_block"]
    words = dict(seen["tail"])
    for number in seen["blocks"]:
        key = ("block", partition, number)
        block = redis.call(connection, lambda redis, key=key: redis.get(key))
        if block is not None:
            words.update(block[0][0])
            state.block_ends[number] = block[0][1]
        elif "blocks" in world.rules:
            return None, None
        else:
            state.block_ends[number] = NEVER
    for offset in sorted(words):
        state.note(offset, *words[offset])
    return state, header


def rebuild(world: ModelWorld, partition: int, committed: int) -> PartitionState:
    """Return the state from which a new owner reads the log where Redis has nothing.

    It begins where anything may be in a window or in the one before it, and at the committed
    offset at the latest, for what precedes that may still have to be forwarded.
    """
    kafka = world.kafka
    log, start = kafka.log[partition], kafka.start[partition]
    end = len(log)
    if not end:
        return PartitionState(world.rules)
    if start == end:
        first, now, since = end, NEVER, NEVER
    else:
        # The log's time, not the machine's.
        now = log[-1].timestamp
        since = now - (2 * WINDOW + MAX_FUTURE if "reach" in world.rules else WINDOW // 2)
        first = kafka.first_since(partition, since, end)
        if "resume" in world.rules:
            first = max(start, min(first, committed))
    margin = AHEAD + SLOW if "margin" in world.rules else 0
    reaches = start == 0 or (start < end and log[start].timestamp < since - margin)
    if (not reaches or committed < start) and "gap" in world.rules:
        world.gaps["aggregator", partition].append((0, start))
    # From the beginning of the block: a block is saved whole.
    first = max(start, first // BLOCK * BLOCK)
    return PartitionState(world.rules, first, now - 2 * WINDOW)
