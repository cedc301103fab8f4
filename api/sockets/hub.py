"""The hub: every socket of this process, every topic and its subscribers, and the flush rounds.

Pure except for `run`: time is an argument, and a round (`tick`) never waits for a client. A round
first lets each source publish what changed; a message is serialised once for all its subscribers.
Then it flushes one slot. The connections are spread over ten slots and a round runs every 10 ms, so
each connection is flushed every 100 ms and the load is even. A bounded number of connections that
have been idle are flushed early, before their slot.

Everything runs on one event loop. A subscriber gets the initial state in the same step in which it
is added, so no change can be lost between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final

import structlog

from aggregator.contracts.intervals import FLUSH_MS
from aggregator.runtime import metrics
from api.auth.jwt import Claims
from api.sockets.connection import Connection, SubjectAccount, Subscription
from api.sockets.limits import EXPIRY_NOTICE_MS, HEARTBEAT_MS, SocketLimits
from api.sockets.protocol import Close, Fault, Message, Resume, write
from api.sockets.source import Source
from api.sockets.tally import TALLY
from api.sockets.topic import Topic, TopicKey

# With one slot, thousands of sockets would be written to in one burst every 100 ms, which blocks
# the event loop and delays the last of them. Ten slots spread the same work over ten rounds.
SLOTS: Final = 10
ROUND_MS: Final = FLUSH_MS // SLOTS
EARLY_MS: Final = 20
"""A connection that was sent nothing for this long may be flushed before its slot."""
# An early flush saves a client up to 100 ms, but it costs a frame and a write of its own. The bound
# keeps a round short when a popular topic changes.
EARLY_A_ROUND: Final = 100
RETRY_AFTER_MS: Final = (500, 5_000)

_NO_SUBSCRIBERS: Final[Mapping[Connection, Subscription]] = {}

log = structlog.get_logger(__name__)


class Hub:
    """Own the sockets, topics and subscriptions of this process.

    Every `now_ms` comes from one monotonic clock.
    """

    def __init__(
        self,
        limits: SocketLimits,
        now_ms: Callable[[], int],
        stale: Callable[[int], Iterable[int]],
        as_of: Callable[[], int | None],
        connected: Callable[[], bool],
    ) -> None:
        """Create a hub without sources.

        `stale(now_ms)` returns the partitions whose numbers may be old, `as_of()` the instant that
        the numbers describe, and `connected()` whether NATS can be reached.
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
        self._subscribers: dict[Topic, dict[Connection, Subscription]] = {}
        self._slots: list[dict[Connection, None]] = [{} for _ in range(SLOTS)]
        self._slot_of: dict[Connection, int] = {}
        self._accounts: dict[str, SubjectAccount] = {}
        self._next_slot = 0
        self._early: dict[Connection, None] = {}
        self._occupied = asyncio.Event()
        self._empty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def connections(self) -> Iterable[Connection]:
        """Return every open socket."""
        return self._slot_of.keys()

    @property
    def full(self) -> bool:
        """Return whether this process accepts no more sockets."""
        return self.stopping or len(self._slot_of) >= self.limits.connections

    @property
    def stale(self) -> bool:
        """Return whether any number of this node may be old, or none is known yet."""
        return bool(self._stale_now) or self._as_of() is None or not self._connected()

    def add_source(self, source: Source) -> None:
        """Let the source fill the topics of its channel."""
        self._sources[source.channel] = source

    def topic(self, key: TopicKey) -> Topic | None:
        """Return the topic; None if it has no subscriber."""
        return self._topics.get(key)

    def topics(self, channel: str) -> list[Topic]:
        """Return the topics of a channel that have subscribers."""
        return [topic for key, topic in self._topics.items() if key.channel == channel]

    def subscribers(self, topic: Topic) -> Mapping[Connection, Subscription]:
        """Return the topic's subscribers: a live view, empty for a topic without any."""
        return self._subscribers.get(topic, _NO_SUBSCRIBERS)

    def add(self, connection: Connection) -> None:
        """Add a socket, to the slot with the fewest."""
        self._watch_staleness(self._now_ms())
        slot = min(range(SLOTS), key=lambda each: len(self._slots[each]))
        self._slots[slot][connection] = None
        self._slot_of[connection] = slot
        metrics.WS_CONNECTIONS.set(len(self._slot_of))
        self._occupied.set()

    def admit(self, connection: Connection, claims: Claims, most: int) -> bool:
        """Record the socket's subject; return False if the subject has `most` sockets already."""
        account = self._accounts.get(claims.subject) or SubjectAccount()
        if account.connections >= most:
            return False
        account.connections += 1
        self._accounts[claims.subject] = account
        connection.join(account)
        connection.claims = claims
        return True

    def remove(self, connection: Connection) -> None:
        """Remove a socket that is closed; a second call does nothing."""
        slot = self._slot_of.pop(connection, None)
        if slot is None:
            return
        del self._slots[slot][connection]
        self._early.pop(connection, None)
        for topic in list(connection.subscriptions):
            self.unsubscribe(connection, topic)
        if connection.claims is not None:
            account, subject = connection.account, connection.claims.subject
            # Messages may still be queued for a closed socket; they must not count for the subject.
            connection.join(SubjectAccount())
            account.connections -= 1
            if not account.connections:
                del self._accounts[subject]
        metrics.WS_CONNECTIONS.set(len(self._slot_of))
        if not self._slot_of:
            self._empty.set()

    def cost(self, key: TopicKey) -> int:
        """Return what a subscription to the topic takes from the client's rate limit."""
        return self._sources[key.channel].cost(key.subject)

    def subscribe(
        self, connection: Connection, key: TopicKey, labels: dict[str, object], interval_ms: int
    ) -> Topic:
        """Subscribe the socket to a topic; call `begin` next to give it the initial state."""
        source = self._sources[key.channel]
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(key, labels)
            self._subscribers[topic] = {}
            source.opened(topic)
        if topic in connection.subscriptions:
            source.left(topic, connection)
            connection.drop(topic)
        else:
            metrics.WS_SUBSCRIPTIONS.inc()
        subscription = Subscription(topic, interval_ms)
        connection.subscriptions[topic] = self._subscribers[topic][connection] = subscription
        return topic

    def begin(self, connection: Connection, topic: Topic, resume: Resume | None) -> bool:
        """Queue the initial state for a new subscriber; return False if it has everything."""
        source = self._sources[topic.key.channel]
        return source.begin(topic, connection, resume, self._now_ms())

    def unsubscribe(self, connection: Connection, topic: Topic) -> None:
        """End the socket's subscription to a topic, and the topic with its last subscriber."""
        source, subscribers = self._sources[topic.key.channel], self._subscribers[topic]
        del connection.subscriptions[topic]
        del subscribers[connection]
        connection.drop(topic)
        source.left(topic, connection)
        metrics.WS_SUBSCRIPTIONS.dec()
        if not subscribers:
            del self._topics[topic.key]
            del self._subscribers[topic]
            source.closed(topic)

    def publish(self, topic: Topic, message: bytes, now_ms: int) -> None:
        """Queue the newest message of a topic for all its subscribers.

        A connection that was sent nothing for EARLY_MS does not wait for its slot.
        """
        # Owners flush about as often as a slot comes round. Where both are nearly in phase, the
        # message before may still wait although it is a flush old: the slot is about to come, and
        # replacing the message would drop every second update. So it is sent first.
        full_interval = now_ms - topic.published_at >= FLUSH_MS // 2
        topic.published_at = now_ms
        conflated = 0
        # This loop body runs once per delivery, so the common case, a subscriber at the default
        # interval, is written out here without a call of `offer`.
        for connection, subscription in self.subscribers(topic).items():
            if subscription.interval_ms == FLUSH_MS:
                if full_interval and topic in connection.pending:
                    connection.flush(now_ms)
                else:
                    self.request_early_flush(connection, now_ms)
                conflated += topic in connection.pending
                connection.pending[topic] = message
            else:
                connection.offer(topic, message)
        TALLY.conflated += conflated

    def request_early_flush(self, connection: Connection, now_ms: int) -> None:
        """Mark the socket for a flush in the next round, unless it was flushed just now."""
        if connection.sent_at <= now_ms - EARLY_MS:
            self._early[connection] = None

    def close_where(
        self, *, jti: str | None = None, sub: str | None = None, code: int, reason: str
    ) -> int:
        """Close the sockets of a token (`jti`) or a subject (`sub`); return how many."""
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
        """End the subscriptions to the trades and candles of tokens that are now hidden.

        The stats end without this: the board has no row of a hidden token.
        """
        gone = set(token_ids)
        fault = Fault("token_not_found", "the token is not shown any more")
        for key, topic in list(self._topics.items()):
            if key.channel not in {"trades", "candles"} or topic.labels.get("token") not in gone:
                continue
            ack = Message(
                type="ack", method="unsubscribe", channel=key.channel, error=fault, **topic.labels
            )
            for connection in list(self.subscribers(topic)):
                self.unsubscribe(connection, topic)
                connection.say(ack)

    def notice(self, text: str) -> None:
        """Send a text to every client, such as a planned maintenance."""
        message = write(Message(type="notice", message=text))
        for connection in self._slot_of:
            connection.push(message)

    def broadcast(self, topic: Topic, message: bytes) -> None:
        """Queue the topic's newest message for every authenticated socket, subscribed or not."""
        for connection in self._slot_of:
            if connection.claims is not None:
                connection.offer(topic, message)

    def tick(self, now_ms: int, *, hurried: bool = False) -> None:
        """Run one round: publish what changed, then flush one slot.

        A round that starts late (`hurried`) makes no early flushes.
        """
        # Take the sockets that were marked in earlier rounds, not in this one: an owner sends its
        # patches in a burst, and a round later the rest of the burst goes into the same frame.
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
        """Close the socket at `expires_at`, and send a warning EXPIRY_NOTICE_MS before."""
        connection.expires_at = expires_at
        connection.warned = False
        connection.deadline = expires_at - EXPIRY_NOTICE_MS

    def start(self) -> None:
        """Start the rounds in the running event loop; a second call does nothing."""
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self.run(), name="ws-hub")

    async def run(self) -> None:
        """Run a round every ROUND_MS while there is a socket."""
        clock_s = asyncio.get_running_loop().time
        while True:
            if not self._slot_of:
                self._occupied.clear()
                await self._occupied.wait()
            due = clock_s()
            while self._slot_of:
                self._round(hurried=clock_s() - due > ROUND_MS / 1_000)
                due += ROUND_MS / 1_000
                now = clock_s()
                if now - due > FLUSH_MS / 1_000:
                    due = now  # Skip the rounds that were missed; catching up would only add load.
                await asyncio.sleep(max(0, due - now))

    def _round(self, *, hurried: bool = False) -> None:
        begun = time.perf_counter()
        try:
            self.tick(self._now_ms(), hurried=hurried)
        except Exception:
            # One faulty message must not stop the updates of every client.
            metrics.WS_FAULTS.inc()
            log.exception("hub_round_failed")
        TALLY.report()
        metrics.WS_TICK_SECONDS.observe(time.perf_counter() - begun)

    async def shutdown(self, within_s: float) -> None:
        """Ask every client to reconnect later, close with 1012, and wait until all have left."""
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
        """Stop the rounds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
