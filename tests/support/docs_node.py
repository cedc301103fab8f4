"""A node of Ethereum for the commands of the documents: genesis, and an empty newest block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sources.chain_config import preset
from tests.support.evm_node import ScriptedChain, ScriptedNode


@contextmanager
def ethereum_node() -> Iterator[str]:
    """Serve the node on a thread; yield its WebSocket address."""
    ready, ended = threading.Event(), threading.Event()
    urls: list[str] = []

    async def run() -> None:
        async with ScriptedNode(_chain(), chain_id=1) as node:
            urls.append(node.ws_url)
            ready.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="docs-node")
    thread.start()
    try:
        assert ready.wait(30)
        yield urls[0]
    finally:
        ended.set()
        thread.join()


def _chain() -> ScriptedChain:
    chain = ScriptedChain()
    genesis = preset("ethereum").genesis
    assert genesis is not None
    header = {"number": "0x0", "hash": genesis, "parentHash": "0x" + "00" * 32}
    chain.put({**header, "timestamp": "0x0", "logsBloom": "0x00"}, [])
    chain.mine(genesis, "newest")
    return chain
