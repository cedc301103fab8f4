"""The hub: every socket of this process, what each is subscribed to, and the beat that feeds them.

Pure but for `run`: time comes in, and a round (`tick`) never waits for a client. A round first has
each source publish what changed (a message is written once, however many take it), then flushes
one slot: the connections are spread over ten slots, a round every 10 ms, so each is flushed every
100 ms and the work is even. Those that were sent nothing just now go first, some in each round.
Everything happens on one event loop: a subscriber is given the state in the same step in which it
is added, so no change can fall between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

import structlog

from aggregator.runtime import metrics
from api.auth.jwt import Claims
from api.sockets.connection import Account, Connection, Subscription
from api.sockets.limits import EXPIRY_NOTICE_MS, HEARTBEAT_MS, Limits
from api.sockets.protocol import FLUSH_MS, Close, Fault, Message, Resume, write
from api.sockets.tally import TALLY
from api.sockets.topic import Source, Topic, TopicKey

SLOTS: Final = 10
ROUND_MS: Final = FLUSH_MS // SLOTS
EARLY_MS: Final = 20
EARLY_A_ROUND: Final = 100
RETRY_AFTER_MS: Final = (500, 5_000)

log = structlog.get_logger(__name__)


class Hub:
    """The sockets of this process. All `now_ms` are of one monotonic clock."""

    def __init__(
        self,
        limits: Limits,
        now_ms: Callable[[], int],
        stale: Callable[[int], Iterable[int]],
        as_of: Callable[[], int | None],
        connected: Callable[[], bool],
    ) -> None:
        """`stale(now_ms)` are the partitions whose numbers may be old, `as_of()` their instant.

        `connected()` is whether NATS can be reached.
        """
        self.limits = limits
        self.stopping = False
        self._now_ms = now_ms
        self._stale = stale
        self._as_of = as_of
        self._connected = connected
        self._stale_now: frozenset[int] = frozenset()
        self._sources: dict[str, Source] = {}
        self._topics: dict[TopicKey, Topic] = {}
        self._slots: list[dict[Connection, None]] = [{} for _ in range(SLOTS)]
        self._slot_of: dict[Connection, int] = {}
        self._accounts: dict[str, Account] = {}
        self._next_slot = 0
        self._early: dict[Connection, None] = {}
        self._someone = asyncio.Event()
        self._empty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def connections(self) -> Iterable[Connection]:
        """Every open socket."""
        return self._slot_of.keys()

    @property
    def full(self) -> bool:
        """Whether this process takes no further socket."""
        return self.stopping or len(self._slot_of) >= self.limits.connections

    @property
    def stale(self) -> bool:
        """Whether any number of this node may be old, or none is known yet."""
        return bool(self._stale_now) or self._as_of() is None or not self._connected()

    def feed(self, source: Source) -> None:
        """Have the source fill the topics of its channel."""
        self._sources[source.channel] = source

    def topic(self, key: TopicKey) -> Topic | None:
        """The topic, if anybody is subscribed to it."""
        return self._topics.get(key)

    def topics(self, channel: str) -> list[Topic]:
        """The topics of a channel that have subscribers."""
        return [topic for key, topic in self._topics.items() if key.channel == channel]

    # Sockets come and go.

    def add(self, connection: Connection) -> None:
        """Take a socket in."""
        self._watch_staleness(self._now_ms())
        slot = min(range(SLOTS), key=lambda each: len(self._slots[each]))
        self._slots[slot][connection] = None
        self._slot_of[connection] = slot
        metrics.WS_CONNECTIONS.set(len(self._slot_of))
        self._someone.set()

    def admit(self, connection: Connection, claims: Claims, most: int) -> bool:
        """Note whose socket it is; False where the subject has `most` already."""
        account = self._accounts.get(claims.subject) or Account()
        if account.connections >= most:
            return False
        account.connections += 1
        self._accounts[claims.subject] = account
        connection.join(account)
        connection.claims = claims
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a socket that is gone; a second call does nothing."""
        slot = self._slot_of.pop(connection, None)
        if slot is None:
            return
        del self._slots[slot][connection]
        self._early.pop(connection, None)
        for topic in list(connection.subscriptions):
            self.unsubscribe(connection, topic)
        if connection.claims is not None:
            account, subject = connection.account, connection.claims.subject
            # A socket that is gone may still be given messages: they count to nobody.
            connection.join(Account())
            account.connections -= 1
            if not account.connections:
                del self._accounts[subject]
        metrics.WS_CONNECTIONS.set(len(self._slot_of))
        if not self._slot_of:
            self._empty.set()

    # Subscriptions.

    def cost(self, key: TopicKey) -> int:
        """What a subscription to the topic takes from the client's rate."""
        return self._sources[key.channel].cost(key.subject)

    def subscribe(
        self, connection: Connection, key: TopicKey, labels: dict[str, object], interval_ms: int
    ) -> Topic:
        """Add the socket to a topic; `begin` of the topic's source gives it the state."""
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(key, self._sources[key.channel], labels)
            topic.source.opened(topic)
        if topic in connection.subscriptions:
            topic.source.left(topic, connection)
            connection.drop(topic)
        else:
            metrics.WS_SUBSCRIPTIONS.inc()
        subscription = Subscription(topic, interval_ms)
        connection.subscriptions[topic] = topic.subscribers[connection] = subscription
        return topic

    def begin(self, connection: Connection, topic: Topic, resume: Resume | None) -> bool:
        """Queue what the subscriber starts from; False where it has everything already."""
        return topic.source.begin(topic, connection, resume, self._now_ms())

    def unsubscribe(self, connection: Connection, topic: Topic) -> None:
        """Take the socket out of a topic that it is subscribed to."""
        del connection.subscriptions[topic]
        del topic.subscribers[connection]
        connection.drop(topic)
        topic.source.left(topic, connection)
        metrics.WS_SUBSCRIPTIONS.dec()
        if not topic.subscribers:
            del self._topics[topic.key]
            topic.source.closed(topic)

    def publish(self, topic: Topic, message: bytes, now_ms: int) -> None:
        """The newest message of a topic, to all its subscribers.

        Where the one before was published about FLUSH_MS ago and still waits, because the beat of
        the owner and that of the slot are nearly in phase, it is sent first instead of being
        replaced. Who was sent nothing for EARLY_MS need not wait for its slot.
        """
        beating = now_ms - topic.published_at >= FLUSH_MS // 2
        topic.published_at = now_ms
        conflated = 0
        for connection, subscription in topic.subscribers.items():
            if subscription.interval_ms == FLUSH_MS:
                if beating and topic in connection.pending:
                    connection.flush(now_ms)
                else:
                    self.hasten(connection, now_ms)
                conflated += topic in connection.pending
                connection.pending[topic] = message
            else:
                connection.offer(topic, message)
        TALLY.conflated += conflated

    def hasten(self, connection: Connection, now_ms: int) -> None:
        """Something waits for the socket: let it go before its slot, while there is time."""
        if connection.sent_at <= now_ms - EARLY_MS:
            self._early[connection] = None

    # What an operator, or a revocation, asks for.

    def close_where(
        self, *, jti: str | None = None, sub: str | None = None, code: int, reason: str
    ) -> int:
        """Close the sockets of a token (`jti`) or a subject; how many they were."""
        closed = 0
        now_ms = self._now_ms()
        said = "token_revoked" if code == Close.EXPIRED else "closed"
        for connection in list(self._slot_of):
            claims = connection.claims
            if claims is None or connection.closing is not None:
                continue
            if (jti is not None and claims.token_id == jti) or claims.subject == sub:
                connection.refuse(said, reason, code, now_ms)
                closed += 1
        return closed

    def end_streams(self, token_ids: Iterable[str]) -> None:
        """End the subscriptions to the trades and candles of tokens that are shown no more.

        Their stats end by themselves: the board has no row of such a token.
        """
        gone = set(token_ids)
        fault = Fault("token_not_found", "the token is not shown any more")
        for key, topic in list(self._topics.items()):
            if key.channel not in {"trades", "candles"} or topic.labels.get("token") not in gone:
                continue
            ack = Message(
                type="ack", method="unsubscribe", channel=key.channel, error=fault, **topic.labels
            )
            for connection in list(topic.subscribers):
                self.unsubscribe(connection, topic)
                connection.say(ack)

    def notice(self, text: str) -> None:
        """Tell every client something, such as a maintenance to come."""
        message = write(Message(type="notice", message=text))
        for connection in self._slot_of:
            connection.push(message)

    def broadcast(self, topic: Topic, message: bytes) -> None:
        """The newest message of a topic, to every authenticated socket, subscribed or not."""
        for connection in self._slot_of:
            if connection.claims is not None:
                connection.offer(topic, message)

    # The beat.

    def tick(self, now_ms: int, *, hurried: bool = False) -> None:
        """One round: publish what changed, flush one slot; nobody goes early where `hurried`."""
        # Those of the round before: by now the rest of the owner's burst is there too.
        early = [] if hurried else list(islice(self._early, EARLY_A_ROUND))
        self._watch_staleness(now_ms)
        for source in self._sources.values():
            source.tick(now_ms)
        for connection in early:
            self._early.pop(connection, None)
            connection.flush(now_ms)
        slot = self._slots[self._next_slot]
        self._next_slot = (self._next_slot + 1) % SLOTS
        silent_since = now_ms - HEARTBEAT_MS
        heartbeat: bytes | None = None
        for connection in slot:
            if connection.waiting:
                connection.flush(now_ms)
            elif connection.sent_at <= silent_since and connection.claims is not None:
                heartbeat = heartbeat or self._heartbeat()
                connection.push(heartbeat)
                connection.flush(now_ms)
            if now_ms >= connection.deadline:
                self._on_deadline(connection, now_ms)

    def flush_all(self, now_ms: int) -> None:
        """Flush every socket at once, whatever its slot."""
        for connection in self._slot_of:
            connection.flush(now_ms)

    def _heartbeat(self) -> bytes:
        return write(
            Message(
                type="heartbeat",
                as_of=self._as_of(),
                data={"stale": self.stale, "stale_partitions": sorted(self._stale_now)},
            )
        )

    def _watch_staleness(self, now_ms: int) -> None:
        stale = frozenset(self._stale(now_ms))
        if stale == self._stale_now:
            return
        changed, self._stale_now = stale ^ self._stale_now, stale
        for source in self._sources.values():
            source.staleness_changed(changed, now_ms)

    @staticmethod
    def _on_deadline(connection: Connection, now_ms: int) -> None:
        if connection.claims is None or connection.expires_at is None:
            text = "no token was shown in time"
            connection.refuse("auth_timeout", text, Close.UNAUTHENTICATED, now_ms)
            metrics.AUTH_REFUSED.labels("ws", "auth_timeout").inc()
        elif now_ms >= connection.expires_at:
            connection.refuse("token_expired", "the token has expired", Close.EXPIRED, now_ms)
        elif not connection.warned:
            connection.warned = True
            connection.deadline = connection.expires_at
            left_ms = connection.expires_at - now_ms
            connection.say(Message(type="auth_expiring", data={"expires_in_ms": left_ms}))

    @staticmethod
    def expect_expiry(connection: Connection, expires_at: int) -> None:
        """Close the socket at `expires_at`, and warn before."""
        connection.expires_at = expires_at
        connection.warned = False
        connection.deadline = expires_at - EXPIRY_NOTICE_MS

    # Life.

    def start(self) -> None:
        """Begin the beat in the running event loop; a second call does nothing."""
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self.run(), name="ws-hub")

    async def run(self) -> None:
        """A round every ROUND_MS while there is a socket."""
        while True:
            if not self._slot_of:
                self._someone.clear()
                await self._someone.wait()
            due = time.monotonic()
            while self._slot_of:
                self._round(hurried=time.monotonic() - due > ROUND_MS / 1_000)
                due += ROUND_MS / 1_000
                now = time.monotonic()
                if now - due > FLUSH_MS / 1_000:
                    due = now  # Behind for good: go on from here rather than hurry after.
                await asyncio.sleep(max(0, due - now))

    def _round(self, *, hurried: bool = False) -> None:
        begun = time.perf_counter()
        try:
            self.tick(self._now_ms(), hurried=hurried)
        except Exception:
            # A fault in one message must not freeze every client's numbers.
            metrics.WS_FAULTS.inc()
            log.exception("hub_round_failed")
        TALLY.report()
        metrics.WS_TICK_SECONDS.observe(time.perf_counter() - begun)

    async def shutdown(self, within_s: float) -> None:
        """Tell every client to come back later, close with 1012, wait until they are gone."""
        self.stopping = True
        now_ms = self._now_ms()
        for connection in list(self._slot_of):
            retry_ms = random.randint(*RETRY_AFTER_MS)  # noqa: S311 - spreads the clients' return
            connection.say(Message(type="server_shutdown", data={"retry_after_ms": retry_ms}))
            connection.flush(now_ms)
            connection.close(Close.RESTART, "restarting")
        if self._slot_of:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), within_s)

    async def stop(self) -> None:
        """End the beat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
