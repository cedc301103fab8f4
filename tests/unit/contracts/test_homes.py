"""The partition of a token, as the clients of Kafka compute it."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.contracts.homes import PARTITIONERS, Homes, fnv1a, murmur2
from aggregator.decoding.decoder import BatchDecoder
from aggregator.decoding.plain.names import Names
from aggregator.runtime.config import load
from tests.support.columns import records

NOW = 1_700_000_000_000

# The vectors of Kafka's own UtilsTest.testMurmur2, as signed 32-bit numbers.
JAVA = [
    ("21", -973_932_308),
    ("foobar", -790_332_482),
    ("a-little-bit-long-string", -985_981_536),
    ("a-little-bit-longer-string", -1_486_304_829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
    ("abc", 479_470_107),
]
# The vectors of librdkafka's own unittest_fnv1a, from Go's hash/fnv.
GO = [
    ("kafka", 0xD33C4E1),
    ("giberish123456789", 0x77A58295),
    ("1234", 0x23BDD03),
    ("234", 0x2DEA3CD2),
    ("34", 0x740FA83E),
    ("4", 0x310CA263),
    ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x65CBD69C),
    ("reAmbleWillBeRemoved,ThePrePartThatIs", 0x6E49C79A),
    ("eAmbleWillBeRemoved,ThePrePartThatIs", 0x69EED356),
    ("AmbleWillBeRemoved,ThePrePartThatIs", 0x6ABCC023),
    ("", 0x7EE3623B),
]


@pytest.mark.parametrize(("key", "java"), JAVA)
def test_murmur2_is_that_of_java(key: str, java: int) -> None:
    assert murmur2(key.encode()) == java & 0x7FFFFFFF


@pytest.mark.parametrize(("key", "go"), GO)
def test_fnv1a_is_the_absolute_value_of_that_of_go(key: str, go: int) -> None:
    assert fnv1a(key.encode()) == go


def test_crc32_is_that_of_zip_and_librdkafka() -> None:
    assert PARTITIONERS["crc32"](b"123456789") == 0xCBF43926


@given(key=st.text(max_size=80), homes=st.integers(1, 10_000))
def test_every_key_has_a_home(key: str, homes: int) -> None:
    for partitioner in PARTITIONERS:
        assert 0 <= Homes(partitioner, homes).of(key) < homes


def test_every_value_of_the_setting_is_a_partitioner() -> None:
    for partitioner in PARTITIONERS:
        assert load({"KAFKA_PARTITIONER": partitioner}).kafka_partitioner == partitioner


def test_records_away_from_home() -> None:
    homes, decoder = Homes("crc32", 4), BatchDecoder(0, Names(most=50))
    for first in range(0, 200, 20):
        tokens = [f"T{number % 70}" for number in range(first, first + 20)]
        values: list[bytes | None] = [
            json.dumps(
                {"chain": "c", "tx_hash": "h", "log_index": 0, "timestamp": NOW, "token": token}
                | {"side": "buy", "amount": "1"}
            ).encode()
            for token in tokens
        ]
        values[3:3] = [None]
        tokens[3:3] = [""]
        found = decoder.decode(records(values, NOW)).swaps
        for partition in range(4):
            away = homes.away(found, partition)
            assert away.dtype == np.bool_
            assert away.tolist() == [
                bool(token) and zlib.crc32(f"c:{token}".encode()) % 4 != partition
                for token in tokens
            ]


def test_bad_records_alone_are_not_away() -> None:
    found = BatchDecoder(0).decode(records([None, b"{}"], NOW)).swaps
    assert Homes("murmur2", 4).away(found, 1).tolist() == [False, False]
    assert Homes("murmur2", 4).away(found.part(0, 0), 1).tolist() == []
