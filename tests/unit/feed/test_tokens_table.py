"""The table of tokens for the recorded day: its addresses are real, and those of the recording."""

from __future__ import annotations

import csv
import gzip
import json

import pytest

from tests.support.service import ETHEREUM_DAY
from tests.unit.feed.eip55 import checksummed, keccak_256

TABLE = ETHEREUM_DAY.with_name("ethereum_tokens.csv")


@pytest.fixture(scope="module")
def symbols() -> dict[str, str]:
    """Return the symbols by address."""
    with TABLE.open() as lines:
        rows = list(csv.DictReader(lines))
    found = {row["token_id"].removeprefix("ethereum:"): row["symbol"] for row in rows}
    assert len(found) == len(rows) == 137
    return found


def test_the_hash_is_that_of_ethereum() -> None:
    known = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak_256(b"").hex() == known
    # More than one block of 136 bytes.
    assert keccak_256(b"a" * 200) != keccak_256(b"a" * 201)
    example = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"  # of EIP-55
    assert checksummed(example.lower()) == example


def test_every_address_has_the_right_checksum(symbols: dict[str, str]) -> None:
    assert [address for address in symbols if checksummed(address) != address] == []
    assert symbols["0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"] == "WETH"


def test_the_recording_names_these_tokens_by_their_addresses(symbols: dict[str, str]) -> None:
    of_table = {address.lower(): symbol for address, symbol in symbols.items()}
    with gzip.open(ETHEREUM_DAY) as lines:
        pairs = {(event["token"], event["symbol"]) for event in map(json.loads, lines)}
    assert len(pairs) == 429
    assert {pair for pair in pairs if pair[0].startswith("0x")} == set(of_table.items())
    assert all(token == symbol for token, symbol in pairs if not token.startswith("0x"))
    assert set(of_table.values()).isdisjoint(
        symbol for token, symbol in pairs if not token.startswith("0x")
    )
