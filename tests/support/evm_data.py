"""The real data of EVM chains in tests/data/evm, and logs made of ABI values."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from eth_abi import encode

from sources.evm.types import EvmLog

DATA = Path(__file__).parents[1] / "data" / "evm"
BLOCK_HASH = "0x" + "b1" * 32
TX_HASH = "0x" + "7c" * 32


def rows(name: str) -> list[dict[str, Any]]:
    """Return the objects of a file."""
    with gzip.open(DATA / f"{name}.ndjson.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def log_of(raw: dict[str, Any]) -> EvmLog:
    """Return a log in the shape of `eth_getLogs`; some sources leave the block hash out."""
    return msgspec.convert({"blockHash": BLOCK_HASH, **raw}, EvmLog)


def abi_log(
    topics: Sequence[str],
    types: Sequence[str],
    values: Sequence[Any],
    *,
    address: str = "0x" + "a1" * 20,
    index: int = 0,
    tx_hash: str = TX_HASH,
    block_hash: str = BLOCK_HASH,
) -> EvmLog:
    """Return a log whose data eth-abi encoded."""
    data = "0x" + encode(list(types), list(values)).hex()
    return EvmLog(address, tuple(topics), data, "0x1", block_hash, tx_hash, hex(index))


def word(value: str) -> str:
    """Return an address as a topic."""
    return "0x" + value[2:].rjust(64, "0")
