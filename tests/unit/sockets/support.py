"""A hub with real sources and a real board, clients with a list as socket, and a manual clock."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from api.auth.access import SubjectLimits
from api.auth.jwt import Claims, TokenRefused
from api.auth.ratelimit import BucketRate, LocalBuckets, RateDecision
from api.board.board import Board
from api.board.overview import OverviewReader
from api.board.wire import Wire
from api.sockets.connection import Connection
from api.sockets.hub import SLOTS, Hub
from api.sockets.limits import AUTH_WITHIN_MS, SocketLimits
from api.sockets.live_candles import CandlesSource
from api.sockets.overview import OverviewSource
from api.sockets.session import SocketSession
from api.sockets.status import StatusSource
from api.sockets.token_stats import TokenStatsSource
from api.sockets.trades import TradesSource
from api.trades.streams import Streams
from tests.unit.api.samples import Owner

SCOPES = frozenset({"ws:connect", "stats:read"})
SUBJECT = SubjectLimits(100, 200)
A, B = "ethereum:0xaa", "ethereum:0xbb"


class Socket:
    """An outlet that keeps its frames; the test sets `blocked`."""

    def __init__(self) -> None:
        self.blocked = False
        self.reading = True
        self.frames: list[bytes] = []
        self.closed: tuple[int, str] | None = None

    def write(self, frame: bytes) -> None:
        assert not self.blocked, "written to a client that has not taken the last frame"
        assert self.closed is None
        self.frames.append(frame)

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True


class Client:
    """One socket with its session; `messages` returns what arrived since the last call."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.socket = Socket()
        self.connection = Connection(self.socket, node.hub.limits, node.now)
        self.connection.deadline = node.now + AUTH_WITHIN_MS
        node.hub.add(self.connection)
        self.session = SocketSession(
            self.connection,
            node.hub,
            verify=node.verify,
            charge=node.charge,
            charge_subject=node.charge_subject,
            limits_of=node.limits_of,
            hides=node.hidden.__contains__,
            windows=["5m", "1h", "24h"],
            leeway_ms=10_000,
            now_ms=lambda: node.now,
            now_s=lambda: node.now / 1_000,
            sleep=node.sleep,
        )

    async def enter(self, token: str = "alice") -> Client:
        await self.session.authenticate(token)
        return self

    async def send(self, **request: Any) -> None:
        await self.session.receive(json.dumps(request))

    async def subscribe(self, channel: str, *tokens: str, **fields: Any) -> None:
        names = {"tokens": list(tokens)} if tokens else {}
        await self.send(method="subscribe", channel=channel, **names, **fields)

    def messages(self, kind: str | None = None) -> list[dict[str, Any]]:
        frames, self.socket.frames = self.socket.frames, []
        every = [message for frame in frames for message in json.loads(frame)]
        return [each for each in every if kind in {None, each["type"]}]

    def gone(self) -> None:
        self.node.hub.remove(self.connection)


class Node:
    """A web node without its network: the test is the owner and the clock."""

    def __init__(self, **limits: int) -> None:
        self.now = 1_000_000
        self.board = Board(3_000, jitter=lambda: 0.0)
        self.wire = Wire()
        self.connected = True
        self.hidden: set[str] = set()
        self.computed = 0
        self.owner = Owner()
        self.hub = Hub(
            SocketLimits(**limits),
            lambda: self.now,
            self.board.stale_partitions,
            self.board.as_of,
            lambda: self.connected,
        )
        self.streams = Streams(self.board, self.wire, lambda: self.now)
        self.reader = OverviewReader(self.board)
        self.cost_s = 0.0
        self._clock = 0.0
        self.hub.add_source(TokenStatsSource(self.board, self.hub))
        self.hub.add_source(TradesSource(self.streams, self.hub))
        self.hub.add_source(CandlesSource(self.streams, self.hub))
        self.hub.add_source(OverviewSource(self.board, self.reader, self.hub, self._read_clock))
        self.hub.add_source(StatusSource(self.board, self.hub, lambda: self.connected))
        self.expires: dict[str, float] = {}
        self.subjects: dict[str, SubjectLimits] = {}
        self.purse = 1_000_000
        self.charged: dict[str, int] = {}
        self._buckets = LocalBuckets(lambda: self.now / 1_000)

    def _read_clock(self) -> float:
        self._clock += self.cost_s
        return self._clock

    async def verify(self, token: str) -> Claims:
        """`name`, `name:jti` or `bad`; expires in an hour unless `expires` says otherwise."""
        name, _, jti = token.partition(":")
        expires_at = self.expires.get(token, self.now / 1_000 + 3_600)
        if name == "bad":
            raise TokenRefused("token_signature", "The signature does not fit.")
        if expires_at <= self.now / 1_000 - 10:
            raise TokenRefused("token_expired", "The token has expired.", "exp")
        scopes = frozenset({"stats:read"}) if name == "noscope" else SCOPES
        return Claims(subject=name, scopes=scopes, expires_at=expires_at, token_id=jti or None)

    async def charge(self, _subject: str | None, cost: int) -> RateDecision:
        """Take the cost from the node's purse, which is never refilled."""
        passed = cost <= self.purse
        self.purse -= cost if passed else 0
        return RateDecision(passed, 1, self.purse, 1, 0 if passed else 7, local=True)

    async def charge_subject(self, subject: str | None, cost: int) -> RateDecision:
        """Take the cost of subscriptions from the subject's bucket, by the real arithmetic."""
        assert subject is not None
        self.charged[subject] = self.charged.get(subject, 0) + cost
        rate = self.limits_of(subject)
        answer = self._buckets.take([subject], [BucketRate(rate.rate_per_s, rate.burst)], cost)
        passed = bool(answer[0])
        self.charged[subject] -= 0 if passed else cost
        return RateDecision(passed, rate.burst, answer[2], 1, 0 if passed else 1, local=True)

    def limits_of(self, subject: str) -> SubjectLimits:
        return self.subjects.get(subject, SUBJECT)

    async def sleep(self, seconds: float) -> None:
        self.run(max(10, int(seconds * 1_000)))

    def beat(self) -> None:
        """Deliver a heartbeat of the owner, and its answers to the board's questions."""
        self.board.heartbeat(self.owner.heartbeat(self.now), self.now)
        for ask in self.board.due(self.now):
            for chunk in self.owner.answer(ask.request):
                self.board.answer(ask.request_id, chunk, self.now)

    def trade(self, token_id: str = A) -> None:
        """Deliver a patch."""
        self.board.patch(self.owner.trade(token_id), self.now)

    def run(self, ms: int = 100) -> None:
        """Let time pass, with a round every 10 ms."""
        assert SLOTS == 10
        for _ in range(ms // 10):
            self.now += 10
            self.hub.tick(self.now)

    def client(self) -> Client:
        return Client(self)


def node(**limits: int) -> Node:
    """Return a node whose board is hydrated and fresh."""
    made = Node(**limits)
    made.beat()
    return made


def encoded(value: object) -> bytes:
    """Return the value as it travels on NATS."""
    return msgspec.json.encode(value)
