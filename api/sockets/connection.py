"""One client's socket: what it is subscribed to, what waits for it, and when it is sent.

Pure: time comes in, frames go to an `Outlet`. Two things wait for a client: the outbox, messages
that must arrive in order and none left out (acks, snapshots, trades), and the newest message of
each topic, where a newer one replaces an older. So a client that reads slowly costs no more than
its subscriptions and `queue_bytes`; one that takes nothing for too long is closed. The outbox is
checked at every push, and all outboxes of one subject together are bounded too (`Account`).
"""

from __future__ import annotations

import msgspec

from aggregator.runtime import metrics
from api.auth.jwt import Claims
from api.sockets.limits import Limits
from api.sockets.outlet import Outlet
from api.sockets.protocol import FLUSH_MS, Close, Message, frame, write
from api.sockets.tally import TALLY
from api.sockets.topic import Topic


class Subscription:
    """One connection's interest in one topic; `next_at` is used where the interval is its own."""

    __slots__ = ("interval_ms", "next_at", "topic")

    def __init__(self, topic: Topic, interval_ms: int) -> None:
        self.topic = topic
        self.interval_ms = interval_ms
        self.next_at = 0


class Account:
    """What one subject has on this node: its open sockets and the bytes of their outboxes."""

    __slots__ = ("connections", "outbox_bytes")

    def __init__(self) -> None:
        self.connections = 0
        self.outbox_bytes = 0


class Connection:
    """All `now_ms` are of one monotonic clock."""

    __slots__ = (
        "_blocked_at",
        "_limits",
        "_marked",
        "_outbox",
        "_outbox_bytes",
        "_outlet",
        "_paced",
        "account",
        "claims",
        "closing",
        "deadline",
        "expires_at",
        "opened_at",
        "pending",
        "sent_at",
        "subscriptions",
        "warned",
    )

    def __init__(self, outlet: Outlet, limits: Limits, now_ms: int) -> None:
        self.account = Account()
        self.claims: Claims | None = None
        self.opened_at = now_ms
        self.expires_at: int | None = None
        self.deadline = now_ms
        self.warned = False
        self.closing: int | None = None
        self.sent_at = now_ms
        self.subscriptions: dict[Topic, Subscription] = {}
        self.pending: dict[Topic, bytes] = {}
        self._paced: dict[Topic, bytes] = {}
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._marked = False
        self._blocked_at: int | None = None
        self._outlet = outlet
        self._limits = limits

    @property
    def waiting(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._outbox or self.pending or self._paced)

    @property
    def crowded(self) -> bool:
        """Whether the client should take what waits before it is given an answer more."""
        return self._outlet.blocked and self._outbox_bytes > self._limits.queue_bytes // 4

    def join(self, account: Account) -> None:
        """Count the outbox to the account of the socket's subject."""
        self.account.outbox_bytes -= self._outbox_bytes
        account.outbox_bytes += self._outbox_bytes
        self.account = account

    def pause_reading(self) -> None:
        """Take nothing from the client until `resume_reading`, as far as the server lets us."""
        self._outlet.pause_reading()

    def resume_reading(self) -> None:
        """Read from the client again."""
        self._outlet.resume_reading()

    def push(self, message: bytes) -> None:
        """Queue a message behind those before it; too many close a client that does not read."""
        if self.closing is not None:
            return
        self._outbox.append(message)
        self._count(len(message))
        if not self._too_much:
            return
        if self._outlet.blocked:
            self.close(Close.TOO_SLOW, "too much waits to be read")
        elif not self._marked:
            self._send(self._outbox)

    @property
    def _too_much(self) -> bool:
        """Whether this outbox is over its limit, or its share where the subject is over its own."""
        if self._outbox_bytes > self._limits.queue_bytes:
            return True
        account = self.account
        share = account.outbox_bytes // max(account.connections, 1)
        return (
            account.outbox_bytes > self._limits.subject_queue_bytes and self._outbox_bytes >= share
        )

    def _count(self, size: int) -> None:
        self._outbox_bytes += size
        self.account.outbox_bytes += size

    def say(self, message: Message) -> None:
        """Queue a message that is for this client only."""
        self.push(write(message))

    def mark(self) -> int:
        """The place behind what is queued now, for `insert`, which must follow.

        Nothing may be flushed in between.
        """
        self._marked = True
        return len(self._outbox)

    def insert(self, mark: int, message: Message) -> None:
        """Queue a message before what was queued since the mark."""
        self._marked = False
        if self.closing is not None:
            return
        written = write(message)
        self._outbox.insert(mark, written)
        self._count(len(written))

    def offer(self, topic: Topic, message: bytes) -> None:
        """The newest message of a topic, instead of one that still waits."""
        subscription = self.subscriptions.get(topic)
        paced = subscription is not None and subscription.interval_ms > FLUSH_MS
        waiting = self._paced if paced else self.pending
        TALLY.conflated += topic in waiting
        waiting[topic] = message

    def drop(self, topic: Topic) -> None:
        """Forget what waits of a topic, because what is queued now is newer or none is wanted."""
        self.pending.pop(topic, None)
        self._paced.pop(topic, None)

    def flush(self, now_ms: int) -> None:
        """Send everything that is due as one frame, unless the client has not taken the last."""
        if self.closing is not None:
            return
        if self._outlet.blocked:
            self._hold(now_ms)
            return
        self._blocked_at = None
        messages = self._outbox
        if self._paced:
            self._move_due(now_ms)
        if self.pending:
            messages += self.pending.values()
            self.pending = {}
        if not messages:
            return
        self.sent_at = now_ms
        self._send(messages)

    def _send(self, messages: list[bytes]) -> None:
        count, whole = len(messages), frame(messages)
        self._empty_outbox()
        TALLY.frames += 1
        TALLY.messages += count
        TALLY.sent_bytes += len(whole)
        self._outlet.write(whole)

    def _empty_outbox(self) -> None:
        self._outbox = []
        self._count(-self._outbox_bytes)

    def _move_due(self, now_ms: int) -> None:
        for topic in list(self._paced):
            subscription = self.subscriptions[topic]
            if now_ms >= subscription.next_at:
                self.pending[topic] = self._paced.pop(topic)
                subscription.next_at = now_ms + subscription.interval_ms

    def _hold(self, now_ms: int) -> None:
        TALLY.held += 1
        if self._blocked_at is None:
            self._blocked_at = now_ms
        elif now_ms - self._blocked_at > self._limits.slow_after_ms:
            self.close(Close.TOO_SLOW, "nothing was read for too long")
        if self._too_much:
            self.close(Close.TOO_SLOW, "too much waits to be read")

    def refuse(
        self, code: str, text: str, close: int, now_ms: int, data: object = msgspec.UNSET
    ) -> None:
        """Say why, then close."""
        self.say(Message(type="error", code=code, message=text, data=data))
        self.flush(now_ms)
        self.close(close, text)

    def close(self, code: int, reason: str) -> None:
        """Close the socket; what still waits is not sent."""
        if self.closing is None:
            self.closing = code
            self._empty_outbox()
            self.pending, self._paced = {}, {}
            metrics.WS_CLOSED.labels(int(code)).inc()
            self._outlet.close(int(code), reason)
