"""A chain node on loopback for the benchmarks: `python -m bench.chain_node BLOCKS RATE`.

Serves JSON-RPC over WebSocket with the contracts and swaps of `bench.source_logs`: BLOCKS blocks of
100 swaps, 12 s apart, all of them finalised. With a RATE above 0 it then mines one block a second
with that many swaps. Answers are made once, so that the node costs little while it is measured. It
logs its address as one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, broadcast, serve

from bench.source_logs import PER_BLOCK, KnownContracts, answer
from sources.evm.calls import argument

_BLOCK_S: Final = 12
_OTHER_TXS: Final = 50
_INPUT: Final = "0x" + "5a" * 200
_EMPTY: Final = b"null"


class ChainNode:
    """Blocks by number, as bytes of JSON."""

    def __init__(self, blocks: int) -> None:
        self._contracts = KnownContracts()
        self._begin = int(time.time()) - _BLOCK_S * blocks
        self.logs: list[bytes] = []
        self.headers: list[bytes] = []
        self._full: list[bytes] = []
        self._by_hash: dict[str, int] = {}
        for at in range(blocks):
            self.mine(PER_BLOCK if at else 0, self._begin + _BLOCK_S * at)
        self.final = blocks - 1
        self.sockets: set[ServerConnection] = set()

    @property
    def head(self) -> int:
        """The number of the newest block."""
        return len(self.headers) - 1

    def mine(self, swaps: int, timestamp_s: int) -> None:
        """Add a block."""
        number = len(self.headers)
        self.logs.append(answer(self._contracts, number, swaps)[1:-1])
        header = {
            "number": hex(number),
            "hash": f"0x{number + 1:064x}",
            "parentHash": f"0x{number:064x}",
            "timestamp": hex(timestamp_s),
            "logsBloom": "0x" + ("ff" if swaps else "00") * 256,
        }
        txs = [_transaction(number, index) for index in range(swaps + _OTHER_TXS)]
        self._by_hash[str(header["hash"])] = number
        self.headers.append(json.dumps({**header, "transactions": []}).encode())
        self._full.append(json.dumps({**header, "transactions": txs}).encode())

    async def result(self, method: str, params: list[Any]) -> bytes:
        """Return the JSON of a call's result."""
        match method:
            case "eth_chainId":
                return b'"0x7a69"'
            case "eth_subscribe":
                return b'"0x1"'
            case "eth_getBlockByNumber":
                tags = {"latest": self.head, "finalized": self.final}
                at = tags[params[0]] if params[0] in tags else int(params[0], 16)
                return self.headers[at] if at <= self.head else _EMPTY
            case "eth_getBlockByHash":
                return self._full[self._by_hash[params[0]]]
            case "eth_getLogs":
                return self._logs(params[0])
            case "eth_call":
                found = await self._contracts.call(params[0]["to"], params[0]["data"], "")
                return json.dumps(found or "0x").encode()
        raise ValueError(f"{method}: not served")

    def _logs(self, query: dict[str, Any]) -> bytes:
        if "blockHash" in query:
            parts = [self.logs[self._by_hash[query["blockHash"]]]]
        else:
            first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
            parts = self.logs[first : last + 1]
        return b"[" + b",".join(part for part in parts if part) + b"]"

    async def serve_socket(self, socket: ServerConnection) -> None:
        """Answer the calls of one connection."""
        self.sockets.add(socket)
        try:
            async for message in socket:
                call = json.loads(message)
                result = await self.result(call["method"], call["params"])
                head = b'{"jsonrpc":"2.0","id":%d,"result":' % call["id"]
                await socket.send((head + result + b"}").decode())
        finally:
            self.sockets.discard(socket)

    def announce(self) -> None:
        """Tell every connection of the newest block."""
        header = self.headers[-1].decode()
        broadcast(
            self.sockets,
            '{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x1",'
            f'"result":{header}}}}}',
        )


def _transaction(block: int, index: int) -> dict[str, Any]:
    """Return a transaction of the usual size; 500 wallets send them."""
    return {
        "hash": f"0x{block << 32 | index:064x}",
        "from": f"0x{(block * 31 + index) % 500 + 1:040x}",
        "to": "0x" + "c0" * 20,
        "transactionIndex": hex(index),
        "input": _INPUT,
        "nonce": "0x1",
        "gas": "0x30d40",
        "value": "0x0",
        "r": "0x" + argument(1),
        "s": "0x" + argument(1),
    }


async def run(blocks: int, rate: int) -> None:
    """Serve until killed."""
    node = ChainNode(blocks)
    async with serve(
        node.serve_socket, "127.0.0.1", 0, max_size=1 << 24, compression=None
    ) as server:
        port = server.sockets[0].getsockname()[1]
        print(json.dumps({"event": "listening", "rpc": f"ws://127.0.0.1:{port}"}), flush=True)
        while rate:
            await asyncio.sleep(1 - time.time() % 1)
            node.mine(rate, int(time.time()))
            node.announce()
        await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), int(sys.argv[2])))
