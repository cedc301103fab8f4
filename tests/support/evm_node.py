"""A scripted chain node on loopback: JSON-RPC over HTTP and WebSocket, with the faults of vendors.

The chain is made of headers and logs in the shape of `eth_getBlockByNumber` and `eth_getLogs`. The
node can lag, answer short, forget logs for a moment, refuse ranges in any words, cut, answer 429 or
500, and hold its answers.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Json = dict[str, Any]


class Fault(Exception):
    """An error object as an answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Cut(Exception):
    """The connection ends instead of an answer."""


class Status(Exception):
    """An HTTP status instead of an answer; a WebSocket gets an error object."""

    def __init__(self, status: int, retry_after: str | None = None) -> None:
        super().__init__(str(status))
        self.status = status
        self.retry_after = retry_after


class ScriptedChain:
    """Blocks by hash, and which of them are canonical. `orphans` says whether others are known."""

    def __init__(self, *, orphans: bool = True) -> None:
        self.headers: dict[str, Json] = {}
        self.logs: dict[str, list[Json]] = {}
        self.canonical: dict[int, str] = {}
        self.orphans = orphans

    @property
    def head(self) -> int:
        return max(self.canonical, default=-1)

    def put(self, header: Json, logs: list[Json]) -> None:
        """Make a block known."""
        self.headers[header["hash"]] = header
        self.logs[header["hash"]] = logs

    def set_head(self, block_hash: str) -> None:
        """Make a known block the newest one, with all its known ancestors."""
        self.canonical = {}
        at: str | None = block_hash
        while at in self.headers:
            header = self.headers[at]
            self.canonical[int(header["number"], 16)] = at
            at = header["parentHash"]

    def mine(
        self, parent: str | None, name: str, logs: int = 0, *, topic: str = "0x" + "d7" * 32
    ) -> str:
        """Add a block of `logs` logs after `parent` and make it the head; return its hash."""
        number = 0 if parent is None else int(self.headers[parent]["number"], 16) + 1
        block_hash = "0x" + name.encode().hex().rjust(64, "0")
        header = {
            "number": hex(number),
            "hash": block_hash,
            "parentHash": parent or "0x" + "00" * 32,
            "timestamp": hex(1_700_000_000 + 12 * number),
            "logsBloom": "0x01" if logs else "0x00",
        }
        made = [
            {
                "address": "0x" + "bb" * 20,
                "topics": [topic],
                "data": "0x" + "00" * 128,
                "blockNumber": hex(number),
                "blockHash": block_hash,
                "transactionHash": f"0x{number:032x}{at:032x}",
                "transactionIndex": hex(at),
                "logIndex": hex(at),
                "removed": False,
            }
            for at in range(logs)
        ]
        self.put(header, made)
        self.set_head(block_hash)
        return block_hash


class ScriptedNode:
    """A node that shows a chain; an async context manager. Its faults are attributes.

    `lag` hides the newest blocks. `before` is called with a method and its parameters and may
    raise a Fault, Cut or Status. While `held` is cleared no answer leaves. `no_logs` is how many
    calls for the logs of one block are answered with none. `up` refuses connections when False.
    """

    def __init__(self, chain: ScriptedChain, *, chain_id: int = 31337) -> None:
        self.chain = chain
        self.chain_id = chain_id
        self.lag = 0
        self.finality = 64
        self.no_logs = 0
        self.before: Callable[[str, list[Any]], None] = lambda method, params: None
        self.held = asyncio.Event()
        self.held.set()
        self.calls: list[tuple[str, list[Any]]] = []
        self.sockets: set[ServerConnection] = set()
        self._http: asyncio.Server | None = None
        self._ws: Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> ScriptedNode:
        self._http = await asyncio.start_server(self._serve_http, "127.0.0.1", 0)
        self._ws = await serve(self._serve_socket, "127.0.0.1", 0, max_size=None)
        return self

    async def __aexit__(self, *raised: object) -> None:
        assert self._http is not None and self._ws is not None
        self.held.set()
        self._ws.close()
        await self._ws.wait_closed()
        self._http.close()
        for writer in self._writers:
            writer.close()

    @property
    def http_url(self) -> str:
        assert self._http is not None
        return f"http://127.0.0.1:{self._http.sockets[0].getsockname()[1]}/v3/secret-key"

    @property
    def ws_url(self) -> str:
        assert self._ws is not None
        return f"ws://127.0.0.1:{next(iter(self._ws.sockets)).getsockname()[1]}/v3/secret-key"

    async def announce(self, kind: str, frame: Json) -> None:
        """Send a notification to every WebSocket."""
        message = {
            "jsonrpc": "2.0",
            "method": "eth_subscription",
            "params": {"subscription": f"0x{kind}", "result": frame},
        }
        for socket in list(self.sockets):
            await socket.send(json.dumps(message))

    async def cut(self) -> None:
        """End all WebSocket connections without a word."""
        for socket in list(self.sockets):
            socket.transport.abort()

    def counts(self) -> Counter[str]:
        """How often each method was called."""
        return Counter(method for method, _ in self.calls)

    def _answer(self, method: str, params: list[Any]) -> Any:
        self.calls.append((method, params))
        self.before(method, params)
        match method:
            case "eth_chainId":
                return hex(self.chain_id)
            case "eth_subscribe":
                return "0xnewHeads"
            case "eth_getBlockByNumber":
                return self._header(self._number(params[0]))
            case "eth_getBlockByHash":
                return self._full(params[0])
            case "eth_getLogs":
                return self._logs(params[0])
            case "eth_call":
                return "0x"
        raise Fault(-32601, f"the method {method} does not exist/is not available")

    @property
    def _head(self) -> int:
        return self.chain.head - self.lag

    def _number(self, tag: str) -> int:
        if tag == "latest":
            return self._head
        if tag == "finalized":
            return max(0, self._head - self.finality)
        return int(tag, 16)

    def _header(self, number: int) -> Json | None:
        if number > self._head or number not in self.chain.canonical:
            return None
        return self.chain.headers[self.chain.canonical[number]]

    def _known(self, block_hash: str) -> bool:
        header = self.chain.headers.get(block_hash)
        if header is None or int(header["number"], 16) > self._head:
            return False
        return self.chain.orphans or block_hash in self.chain.canonical.values()

    def _full(self, block_hash: str) -> Json | None:
        if not self._known(block_hash):
            return None
        logs = self.chain.logs[block_hash]
        hashes = dict.fromkeys(each["transactionHash"] for each in logs)
        sent = [{"hash": each, "from": "0x" + "cc" * 20, "nonce": "0x1"} for each in hashes]
        return {**self.chain.headers[block_hash], "transactions": sent}

    def _logs(self, query: Json) -> list[Json]:
        if (block_hash := query.get("blockHash")) is not None:
            if not self._known(block_hash):
                raise Fault(-32000, "unknown block")
            if self.no_logs > 0:
                self.no_logs -= 1
                return []
            found = self.chain.logs[block_hash]
        else:
            # As nodes do: what is beyond the head is silently missing.
            first, last = self._number(query["fromBlock"]), self._number(query["toBlock"])
            found = [
                log
                for number in range(first, min(last, self._head) + 1)
                for log in self.chain.logs[self.chain.canonical[number]]
            ]
        topics = query["topics"][0]
        return [log for log in found if log["topics"][0] in topics]

    async def _reply(self, data: bytes | str) -> bytes:
        asked = json.loads(data)
        answer: Json = {"jsonrpc": "2.0", "id": asked["id"]}
        try:
            answer["result"] = self._answer(asked["method"], asked["params"])
        except Fault as fault:
            answer["error"] = {"code": fault.code, "message": fault.message}
        await self.held.wait()
        return json.dumps(answer).encode()

    async def _serve_socket(self, socket: ServerConnection) -> None:
        self.sockets.add(socket)
        try:
            async for message in socket:
                try:
                    await socket.send((await self._reply(message)).decode())
                except Cut:
                    socket.transport.abort()
                except Status as status:
                    error = {"code": status.status, "message": "too many requests"}
                    number = json.loads(message)["id"]
                    await socket.send(json.dumps({"jsonrpc": "2.0", "id": number, "error": error}))
        except ConnectionClosed:
            return
        finally:
            self.sockets.discard(socket)

    async def _serve_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().split("\r\n")
                length = next(
                    int(line.split(":")[1]) for line in lines if line.startswith("content-length")
                )
                await self._serve_call(await reader.readexactly(length), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _serve_call(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        status, more, data = 200, "", b""
        try:
            data = await self._reply(body)
        except Cut:
            writer.transport.abort()
            return
        except Status as wanted:
            status = wanted.status
            if wanted.retry_after is not None:
                more = f"Retry-After: {wanted.retry_after}\r\n"
        writer.write(
            f"HTTP/1.1 {status} Said\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode() + data
        )
