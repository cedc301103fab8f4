"""Checks where producers put records: that the last ones lie on the homes of their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from aggregator.contracts.homes import PARTITIONERS, Homes
from aggregator.contracts.records import origin_of
from aggregator.contracts.swaps import ABSENT
from aggregator.counting.commit_metadata import NOTHING_COMMITTED, CommitMetadata, read_metadata
from aggregator.decoding.decoder import BatchDecoder
from aggregator.member.kafka_reader import KafkaReader
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, Retry
from console.doctor.finding import TIMEOUT_S, Finding

# How many of the topic's newest records are looked at.
_RECORDS: Final = 1_000
# A partitioner fits if it puts at least this share of the records where they are.
_FITS: Final = 0.99


class Placed(NamedTuple):
    """Where a producer put a record of a token."""

    token_id: str
    partition: int


class _Columns(NamedTuple):
    values: list[bytes | None]
    timestamps: list[int]
    offsets: list[int]
    origins: None = None


def check(config: Config) -> list[Finding]:
    """Return the findings; none while the topic cannot be read, which another check reports."""
    reader = KafkaReader(config.kafka_bootstrap, config.kafka_topic, config.kafka_group)
    try:
        partitions = reader.partition_count(TIMEOUT_S)
        committed = _committed(reader, partitions)
        placed: list[Placed] = []
        for partition in range(partitions):
            placed += _newest(config, reader, partition, -(-_RECORDS // partitions))
    except Retry:
        return []
    except Fatal as error:
        fix = "name the group of this topic's aggregators"
        return [Finding("FAIL", "KAFKA_GROUP", str(error), fix)]
    finally:
        reader.close()
    return of_homes(config, committed, partitions, placed) if partitions else []


def of_homes(
    config: Config, committed: CommitMetadata, partitions: int, placed: Sequence[Placed]
) -> list[Finding]:
    """Return the findings for records of producers, given what the aggregators have committed."""
    what, ours = "KAFKA_PARTITIONER", config.kafka_partitioner
    if committed.partitioner not in {"", ours}:
        said = f"{ours}, but the topic is counted with {committed.partitioner}"
        return [Finding("FAIL", what, said, f"set it to {committed.partitioner}")]
    homes = committed.homes or partitions
    shares = {name: _share(Homes(name, homes), placed) for name in PARTITIONERS}
    if shares[ours] >= _FITS:
        said = f"{ours} over {homes} homes puts the last {len(placed)} records where they are"
        return [Finding("OK", what, said)]
    said = (
        f"with {ours}, {1 - shares[ours]:.0%} of the last {len(placed)} records are not at home; "
        "each is forwarded"
    )
    best = max(shares, key=lambda name: shares[name])
    if shares[best] < _FITS:
        fix = (
            "let the producers use the token id as the key, and a partitioner of KAFKA_PARTITIONER"
        )
    elif committed.homes:
        fix = f"the producers use {best}: let them use {ours}, which is fixed for this topic"
    else:
        fix = f"set it to {best} before the topic is first read: then it is fixed"
    return [Finding("WARN", what, said, fix)]


def _share(homes: Homes, placed: Sequence[Placed]) -> float:
    at_home = sum(homes.of(each.token_id) == each.partition for each in placed)
    return at_home / len(placed) if placed else 1.0


def _committed(reader: KafkaReader, partitions: int) -> CommitMetadata:
    found = (read_metadata(reader.committed(each)[1]) for each in range(partitions))
    return next((each for each in found if each.homes), NOTHING_COMMITTED)


def _newest(config: Config, reader: KafkaReader, partition: int, most: int) -> Iterator[Placed]:
    """Yield where the newest records of a partition are, but for forwarded and bad ones."""
    extent = reader.extent(partition, None)
    offsets = range(max(extent.start, extent.end - most), extent.end)
    records = [
        record
        for record in reader.read_at(partition, offsets).values()
        if origin_of(record.headers) is None
    ]
    if not records:
        return
    columns = _Columns(
        [record.value for record in records],
        [record.timestamp for record in records],
        [record.offset for record in records],
    )
    swaps = BatchDecoder(config.max_future_ms).decode(columns).swaps
    for name in swaps.records["name"].tolist():
        if name != ABSENT:
            yield Placed(swaps.token_names[name].token_id, partition)
