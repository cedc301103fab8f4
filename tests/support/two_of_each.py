"""Two aggregators and two web nodes on one Kafka, Redis and NATS, a random stream, and its truth.

The stream and the judge are those of the chaos: swaps with repeats, retractions, late and broken
messages, and the windows computed from the log alone. Tokens that a producer sends to a partition
that is not their home are left out: the log would have to be read back to know where they count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
from confluent_kafka import Message as Delivered
from confluent_kafka import Producer
from swapclient import TokenStats as ClientStats

from aggregator.contracts.stats import TokenStats
from aggregator.runtime.clock import wall_ms
from api.auth.demo_issuer import ensure_keys, issue
from infra.embedded.engine import Process
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.chaos.expected import Expected, logged_of
from tests.chaos.traffic import CROSSED, HOME_ONLY, Message, Traffic, chain_of
from tests.chaos.verdict import Findings, judge_owners
from tests.support.crowd import Crowd, Reader
from tests.support.oracle import Logged, Rules, token_id
from tests.support.plain import PLAIN
from tests.support.promises import Client
from tests.support.service import Service

PARTITIONS = 4
# The burst number at which the stream's clock has come to the present.
BURSTS = 400
SPAN_MS = 60 * 60_000
BURST = 40
PAUSE_S = 0.15
SETTLED_WITHIN_S = 40
TOKENS = [token_id({"chain": chain_of(token), "token": token}) for token in HOME_ONLY]

_read_answer = msgspec.json.Decoder(dict[str, Any]).decode


class TwoOfEach:
    """Everything but the clients; nothing outlives the `with` block."""

    def __init__(self, directory: Path, kafka: Stack, **settings: str) -> None:
        self.service = Service(
            directory,
            kafka,
            KAFKA_PARTITIONS=str(PARTITIONS),
            DATABASE_FILE=str(directory / "db.sqlite3"),
            SNAPSHOT_INTERVAL="500ms",
            RATE_LIMIT="10000",
            RATE_LIMIT_IP="10000",
            **settings,
        )
        self.ports = (free_port(), free_port())
        self.nodes: dict[int, Process] = {}
        self.aggregators: list[Process] = []
        self.log: list[Logged] = []
        self._started = 0
        self._ends = dict.fromkeys(range(PARTITIONS), 0)
        self._refused: list[str] = []
        self._traffic = Traffic(7, wall_ms(), SPAN_MS, BURSTS, PARTITIONS)
        self._producer = Producer(
            {"bootstrap.servers": kafka.kafka.address, "linger.ms": 5, "log_level": 0}
        )
        self._http = httpx.Client(timeout=10, verify=PLAIN)

    def __enter__(self) -> Self:
        self.service.__enter__()
        try:
            migrated = self.service.manage("migrate", "-v", "0")
            assert migrated.returncode == 0, migrated.stderr
            for _ in range(2):
                self.start_aggregator()
            for port in self.ports:
                self.start_node(port)
            self.wait(self.live, "all partitions live on both nodes")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._producer.flush(5)
        self.service.__exit__()

    @property
    def nats(self) -> Nats:
        """Theirs alone."""
        return self.service.engines.nats

    def start_aggregator(self) -> Process:
        """One more."""
        self._started += 1
        self.aggregators.append(self.service.aggregator(f"aggregator-{self._started}"))
        return self.aggregators[-1]

    def start_node(self, port: int) -> Process:
        """Start the node of this port and wait until it answers."""
        self._started += 1
        self.nodes[port] = self.service.web(f"web-{self._started}", port)
        return self.nodes[port]

    def token(self, subject: str, ttl_ms: int = 3_600_000) -> str:
        """A token that opens sockets; each has a `jti` of its own."""
        return issue(
            ensure_keys(self.service.directory / "issuer"),
            subject=subject,
            issuer="swaps-demo",
            audience="swaps",
            scope="stats:read ws:connect ops:read",
            issued_at=int(time.time()),
            ttl_ms=ttl_ms,
        )

    # The stream.

    def burst(self) -> None:
        """Hand the next messages to the producer."""
        for message in self._traffic.burst(BURST, tuple(range(PARTITIONS))):
            if message.key not in CROSSED:
                self._send(message)
        self._producer.poll(0)

    def _send(self, message: Message) -> None:
        self._producer.produce(
            self.service.topic,
            message.value,
            message.key,
            message.partition,
            on_delivery=self._sent,
        )

    def _sent(self, error: Any, record: Delivered) -> None:
        if error is not None:
            self._refused.append(str(error))
            return
        partition, offset = record.partition(), record.offset()
        assert partition is not None
        assert offset is not None
        self._ends[partition] = max(self._ends[partition], offset + 1)
        self.log.append(logged_of(record.value(), partition, offset, record.timestamp()[1]))

    def stream_until(self, holds: Callable[[], bool], within_s: float, what: str) -> None:
        """Keep the stream going until the condition holds."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
            self.burst()
            time.sleep(PAUSE_S)

    # What the nodes say.

    def get(self, port: int, path: str, **params: Any) -> httpx.Response:
        """GET from one node."""
        bearer = {"Authorization": f"Bearer {self.service.token}"}
        return self._http.get(f"http://127.0.0.1:{port}{path}", params=params, headers=bearer)

    def live(self) -> bool:
        """Whether both nodes show everything that was produced, and show it as fresh."""
        return all(self._is_live(port) for port in self.ports)

    def _is_live(self, port: int) -> bool:
        partitions = self.get(port, "/api/status").json()["partitions"]
        return len(partitions) == PARTITIONS and all(
            each["state"] == "live"
            and each["in_sync"]
            and not each["stale"]
            and (each["owner_next_offset"] or 0) >= self._ends[each["partition"]]
            for each in partitions
        )

    def rows(self, port: int) -> dict[str, TokenStats]:
        """What REST gives of every token of the stream."""
        answer = self.get(port, "/api/tokens/stats", ids=",".join(TOKENS))
        assert answer.status_code == 200, answer.text
        rows = msgspec.convert(_read_answer(answer.content)["tokens"], list[TokenStats])
        return {row.token_id: row for row in rows}

    def wait(self, holds: Callable[[], bool], what: str, within_s: float = 40) -> None:
        """Wait for a condition; what /readyz says is in the error."""
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                said = [self.get(port, "/readyz").text for port in self.ports]
                raise AssertionError(f"{what}: not within {within_s} s: {said}")
            time.sleep(0.05)

    # The truth.

    def settle(self, crowd: Crowd) -> Findings:
        """Stop the stream; all must come to the same numbers, and these must be the log's."""
        assert self._producer.flush(20) == 0
        assert self._refused == []
        self.wait(self.live, "everything read")
        log = sorted(self.log, key=lambda each: (each.partition, each.offset))
        expected = Expected(log, Rules(homes=PARTITIONS))
        faults = ["not compared"]
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while faults:
            assert time.monotonic() < deadline, "\n".join(faults[:40])
            time.sleep(0.1)
            rows = self.rows(self.ports[0])
            faults = _differences("the other node", self.rows(self.ports[1]), rows)
            faults = faults or crowd.look(lambda rows=rows: _apart(crowd, rows, expected))
        findings = Findings()
        judge_owners(
            expected, {(row.token_id, row.partition): row for row in rows.values()}, findings
        )
        assert findings.violations == []
        assert (
            crowd.look(lambda: [said for each in crowd.everybody() for said in each.broken]) == []
        )
        assert crowd.failed == []
        return findings


def _apart(crowd: Crowd, rows: dict[str, TokenStats], expected: Expected) -> list[str]:
    """How what the clients hold differs from REST's rows and from the log's trades."""
    faults = []
    as_client = msgspec.convert(msgspec.to_builtins(rows), dict[str, ClientStats])
    trades = {token: [each.offset for each in expected.trades(token)] for token in rows}
    for number, each in enumerate(crowd.everybody()):
        who = f"client {number}"
        if isinstance(each, Reader):
            shown: dict[str, Any] = dict(each.rows)
            faults += _differences(who, shown, {t: as_client[t] for t in each.tokens})
        else:
            shown = {token: each.row(token) for token in each.rows}
            faults += _differences(who, shown, {t: rows[t] for t in each.tokens})
        if each.stale:
            faults.append(f"{who} is told that numbers are stale")
        for token, held in _held(each).items():
            faults += _trade_faults(f"{who}, {token}", held, trades[token])
    return faults


def _held(each: Client | Reader) -> dict[str, Sequence[tuple[int, int]]]:
    if isinstance(each, Reader):
        return dict(each.trades)
    return {token: trades.held for token, trades in each.trades.items()}


def _trade_faults(who: str, held: Sequence[tuple[int, int]], offsets: Sequence[int]) -> list[str]:
    """The trades held must be those of the log, and end with its last; `n` counts from anywhere."""
    if not held:
        return [f"{who}: no trades of {len(offsets)}"] if offsets else []
    before_first = held[-1][0] - len(offsets)
    at = [n - before_first - 1 for n, _ in held]
    if at[0] < 0 or at[-1] >= len(offsets):
        return [f"{who}: {len(held)} trades of {len(offsets)}"]
    wrong = [n for (n, offset), i in zip(held, at, strict=True) if offsets[i] != offset]
    return [f"{who}: {len(wrong)} trades from {wrong[0]} are not the log's"] if wrong else []


def _differences(who: str, shown: dict[str, Any], right: dict[str, Any]) -> list[str]:
    faults = []
    for token, row in right.items():
        have = shown.get(token)
        if have != row:
            there = None if have is None else (have.epoch, have.seq, have.stale)
            faults.append(f"{who}, {token}: {there}, not {(row.epoch, row.seq, row.stale)}")
    return faults
