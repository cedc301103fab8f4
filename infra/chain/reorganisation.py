"""Reorganisations: the newest blocks are replaced by others with some of their transactions."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import NamedTuple

from infra.chain.rpc import Rpc


class Reorganised(NamedTuple):
    """What a reorganisation did; hashes are of transactions."""

    depth: int
    moved: list[str]
    dropped: list[str]


def reorganise(rpc: Rpc, depth: int, rng: random.Random, keep: float = 0.7) -> Reorganised:
    """Replace the newest `depth` blocks by as many others.

    A share of about `keep` of their transactions is included again, with the same hash, in random
    blocks of the new ones; the others are dropped. Of each sender the first ones are kept, since a
    transaction cannot follow one that was dropped. anvil announces new heads, and nothing else.
    """
    head = int(rpc("eth_blockNumber"), 16)
    numbers = range(head - depth + 1, head + 1)
    blocks = rpc.batch([("eth_getBlockByNumber", hex(n), True) for n in numbers])
    sent = [transaction for block in blocks for transaction in block["transactions"]]
    by_sender = defaultdict[str, list[str]](list)
    for transaction in sent:
        by_sender[transaction["from"]].append(transaction["hash"])
    kept = {
        each
        for hashes in by_sender.values()
        for each in hashes[: sum(rng.random() < keep for _ in hashes)]
    }
    moved = [each["hash"] for each in sent if each["hash"] in kept]
    raw = rpc.batch([("eth_getRawTransactionByHash", each) for each in moved]) if moved else []
    # In their order, so that each follows the ones of its sender.
    places = sorted(rng.randrange(depth) for _ in raw)
    rpc("anvil_reorg", depth, [list(each) for each in zip(raw, places, strict=True)])
    return Reorganised(depth, moved, [each["hash"] for each in sent if each["hash"] not in kept])
