"""The rules of docs/exactly-once.md that can be switched off, the faults, and the sizes.

Times are ticks. A minute is short, so that windows, GRACE and MARKER_TTL pass within a schedule.
"""

from __future__ import annotations

from collections import namedtuple

MINUTE = 10
WINDOW = 60
MAX_FUTURE = 10
DRIFT = 5
# An event counts as long as the longest window covers its minute.
GRACE = WINDOW
# The shortest that is right: without the rule `ttl` it is half of GRACE.
TTL = GRACE + MAX_FUTURE + DRIFT
# Offsets of one block of the journal.
BLOCK = 4
# How far the clock of a producer may be in front (the broker refuses more), or slow.
AHEAD = 5
SLOW = 8
# An insert of the archive begins at most this long after its intent.
LEASE = 30
# An insert of a backfill begins at most this long after it raised the epoch; an archiver waits
# for it twice as long.
BACKFILL_LEASE = 200
ABANDONED = 2 * BACKFILL_LEASE
NEVER = -(10**6)

RULES = {
    "token": "the token is part of the identity: both legs of a swap count",
    "resume": "a rebuild begins at the committed offset at the latest: what precedes it may have "
    "to be forwarded",
    "home": "a record met away from its token's home is forwarded there and counted nowhere else",
    "ack": "a forward is acknowledged by the broker before its offset is passed",
    "order": "forwards are sent in the order of the log, each after the one before it",
    "origin": "the home keeps the highest origin offset of each partition, and drops a forward "
    "that is not above it",
    "state": "Seen and the windows are saved in one fenced call",
    "logttl": "an id is forgotten by the log clock, a block at a time",
    "blocks": "the header names its blocks, they outlive any stop, and without one of them there "
    "is no state",
    "cas": "a save that does not find the save before it in Redis saves whole",
    "reach": "a rebuild reads from 2 W + MAX_FUTURE back: older swaps are in no window and in no "
    "previous one",
    "margin": "a rebuild reports a gap unless the log begins with a record older than that by the "
    "spread of the clocks",
    "late": "lateness against the log clock with GRACE = the longest window",
    "ahead": "the broker refuses records that are stamped more than AHEAD in its future",
    "ttl": "MARKER_TTL >= GRACE + MAX_FUTURE + DRIFT",
    "undo": "a retraction takes out what its swap had put in, found by offset",
    "anytime": "a retraction is never a dead letter for its timestamp",
    "mirror": "in the archive too: -1 is the negative of a +1 row that stands, and is never "
    "written without one",
    "toggle": "a swap that was removed counts again when it is included again",
    "tomb": "a removal before its add makes that add void",
    "hash": "block hashes: a removal of another block is ignored, an add in another block is "
    "remembered",
    "renew": "the id of an add in another block is remembered from there on",
    "rise": "an add in another block, on time, of a swap that stands as late counts in the windows",
    "own": "an archiver fills its Seen from what it has archived, not from what the aggregator "
    "saved",
    "clock": "its clock and its highest origins are in its commit metadata, beside the intent",
    "rows": "an absent id of a late event, and of each retraction, is looked up in raw_swaps",
    "refill": "an archiver fills its Seen again when a backfill has raised the archive's epoch",
    "settled": "a backfill waits until the archiver has seen the epoch and has no intent open",
    "homes": "the number of homes is fixed when the topic is first read, however many partitions "
    "it gets",
    "intent": "an archiver's intent is in the Kafka commit metadata",
    "epoch": "the epoch is in the Kafka commit metadata; a fenced writer asks Kafka",
    "reader": "readers: fence by epoch, take a full state that is not older, then contiguous seq",
    "lease": "an insert begins soon after its intent; a redo first looks whether it landed",
    "gap": "a trimmed log is reported",
}

# Moments that strike a running schedule.
STRIKES = (
    *("crash", "zombie", "rebalance", "halt", "suffix", "failover", "empty", "old"),
    *("down", "evict", "trim", "raise", "backfill"),
)
# How the world of a schedule is, from its beginning to its end.
CONDITIONS = (
    *("reorg", "odd", "wrong", "skew", "quiet", "answer", "drop", "hw", "window", "cluster"),
)
# The order matters: a seed draws from it.
FAULTS = (
    *("reorg", "odd", "wrong", "skew", "quiet", "crash", "zombie", "rebalance", "halt", "suffix"),
    *("failover", "empty", "old", "down", "answer", "evict", "trim", "drop", "hw", "window"),
    *("raise", "cluster", "backfill"),
)

# A record of the log. `origin` is (partition, offset) of a forwarded one, `born` the true time of
# the swap's first record, which only the oracle uses.
Record = namedtuple("Record", "base token kind block event_time value timestamp origin born")
# A row of raw_swaps; the letter "-" is a poison row.
ArchiveRow = namedtuple(
    "ArchiveRow",
    "partition offset identity letter sign block minute value event_time ingested_at",
)
# An id's entry: state C counted, L late, X removed, T retracted before any add.
SeenEntry = namedtuple("SeenEntry", "state at counted_at block")
# A change of a minute of the windows.
Change = namedtuple("Change", "identity sign value offset")


def identity(rules: frozenset[str], record: Record) -> object:
    """Return the id of a record."""
    return (record.base, record.token) if "token" in rules else record.base
