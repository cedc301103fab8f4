"""The home of a token: the partition on which all of its records are counted.

The home is what the partitioner of the producers makes of the token id, the key of a record, so a
producer that uses the same partitioner writes every record to its home. Pure.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import ABSENT, Swaps, TokenName

_KEPT: Final = 131_072
"""Homes remembered, by token id; about 30 MB when there are so many."""
_32_BITS: Final = 0xFFFFFFFF
_31_BITS: Final = 0x7FFFFFFF


def murmur2(key: bytes) -> int:
    """Return the hash of the default partitioner of Kafka's Java clients, without its sign bit."""
    multiplier, whole = 0x5BD1E995, len(key) & ~3
    mixed = 0x9747B28C ^ len(key)
    for at in range(0, whole, 4):
        word = (int.from_bytes(key[at : at + 4], "little") * multiplier) & _32_BITS
        word = ((word ^ word >> 24) * multiplier) & _32_BITS
        mixed = (mixed * multiplier & _32_BITS) ^ word
    if whole < len(key):
        mixed = ((mixed ^ int.from_bytes(key[whole:], "little")) * multiplier) & _32_BITS
    mixed = ((mixed ^ mixed >> 13) * multiplier) & _32_BITS
    return (mixed ^ mixed >> 15) & _31_BITS


def fnv1a(key: bytes) -> int:
    """Return the hash of librdkafka's `fnv1a`: the absolute value of a signed 32-bit FNV-1a."""
    mixed = 0x811C9DC5
    for byte in key:
        mixed = ((mixed ^ byte) * 0x01000193) & _32_BITS
    return mixed if mixed <= _31_BITS else (1 << 32) - mixed


PARTITIONERS: Final[Mapping[str, Callable[[bytes], int]]] = {
    "murmur2": murmur2,
    "crc32": zlib.crc32,
    "fnv1a": fnv1a,
}
"""The hashes by the values of KAFKA_PARTITIONER; the partition is the hash modulo their number.

`murmur2` is what Java, Go and Node.js clients use, and librdkafka as `murmur2` or `murmur2_random`;
`crc32` is librdkafka's `consistent` and `consistent_random` (its default).
"""


class Homes:
    """Finds the homes of tokens, and remembers them."""

    def __init__(self, partitioner: str, homes: int) -> None:
        """`partitioner` is a key of PARTITIONERS, `homes` the number of home partitions."""
        hashed = PARTITIONERS[partitioner]
        self.partitioner = partitioner
        self.homes = homes
        self._of = lru_cache(_KEPT)(lambda token_id: hashed(token_id.encode()) % homes)
        self._names: Sequence[TokenName] = ()
        self._by_name = np.empty(0, np.int32)
        self._known = 0

    def of(self, token_id: str) -> int:
        """Return the home partition of a canonical token id."""
        return self._of(token_id)

    def away(self, swaps: Swaps, partition: int) -> Array:
        """Return, for each record (bool), whether its token's home is another partition.

        A bad record has no token: False. Batches of one decoder share the list of their names, and
        each name of it is looked up once.
        """
        names = swaps.records["name"]
        good = names != ABSENT
        if not good.any():
            return np.zeros(len(swaps), np.bool_)
        homes = self._homes_of(swaps.token_names, int(names.max()) + 1)
        away: Array = good & (homes[names] != partition)
        return away

    def _homes_of(self, token_names: Sequence[TokenName], count: int) -> Array:
        """Return the homes of at least the first `count` names."""
        if token_names is not self._names:
            self._names, self._known = token_names, 0
        if count > len(self._by_name):
            grown = np.empty(max(count, 2 * len(self._by_name)), np.int32)
            grown[: self._known] = self._by_name[: self._known]
            self._by_name = grown
        for index in range(self._known, count):
            self._by_name[index] = self._of(token_names[index].token_id)
        self._known = max(self._known, count)
        return self._by_name
