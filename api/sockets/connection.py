"""One client's socket: its subscriptions, its queued messages, and when they are sent.

Pure: time is an argument, frames go to an `Outlet`. Messages wait in two places. The outbox holds
messages that must all arrive, in order (acks, snapshots, trades). `pending` holds the newest
message of each topic, and a newer message replaces an older one (conflation). So a slow reader
costs no more than its subscriptions and `queue_bytes`, and a client that reads nothing for too long
is closed. The size of the outbox is checked at every push, and the outboxes of one subject are
bounded together too (`SubjectAccount`).
"""

from __future__ import annotations

import msgspec

from aggregator.contracts.intervals import FLUSH_MS
from aggregator.runtime import metrics
from api.auth.jwt import Claims
from api.sockets.limits import SocketLimits
from api.sockets.outlet import Outlet
from api.sockets.protocol import Close, Message, frame, write
from api.sockets.tally import TALLY
from api.sockets.topic import Topic


class Subscription:
    """Hold one connection's interest in one topic.

    `next_at` is used only if the client chose an interval longer than FLUSH_MS.
    """

    __slots__ = ("interval_ms", "next_at", "topic")

    def __init__(self, topic: Topic, interval_ms: int) -> None:
        self.topic = topic
        self.interval_ms = interval_ms
        self.next_at = 0


class SubjectAccount:
    """Count one subject's open sockets on this node and the bytes in their outboxes."""

    __slots__ = ("connections", "outbox_bytes")

    def __init__(self) -> None:
        self.connections = 0
        self.outbox_bytes = 0


class Connection:
    """Queue and send the messages of one client. Every `now_ms` comes from one monotonic clock."""

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

    def __init__(self, outlet: Outlet, limits: SocketLimits, now_ms: int) -> None:
        self.account = SubjectAccount()
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
        """Return whether any message waits to be sent."""
        return bool(self._outbox or self.pending or self._paced)

    @property
    def crowded(self) -> bool:
        """Return whether the client should read its queue before it gets another answer."""
        return self._outlet.blocked and self._outbox_bytes > self._limits.queue_bytes // 4

    def join(self, account: SubjectAccount) -> None:
        """Move the bytes of the outbox to the account of the socket's subject."""
        self.account.outbox_bytes -= self._outbox_bytes
        account.outbox_bytes += self._outbox_bytes
        self.account = account

    def pause_reading(self) -> None:
        """Stop reading from the client until `resume_reading`, if the server supports it."""
        self._outlet.pause_reading()

    def resume_reading(self) -> None:
        """Read from the client again."""
        self._outlet.resume_reading()

    def push(self, message: bytes) -> None:
        """Append a message to the outbox; close a client that is over its limit and blocked."""
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
        """Return whether the outbox is over its limit.

        If the subject as a whole is over its limit, each of its sockets may keep an equal share.
        """
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
        """Serialise and queue a message that is for this client only."""
        self.push(write(message))

    def mark(self) -> int:
        """Return the end of the outbox, for the call of `insert` that must follow.

        The outbox is not flushed until then, so the position stays valid.
        """
        self._marked = True
        return len(self._outbox)

    def insert(self, mark: int, message: Message) -> None:
        """Queue a message before everything that was queued since the mark."""
        self._marked = False
        if self.closing is not None:
            return
        written = write(message)
        self._outbox.insert(mark, written)
        self._count(len(written))

    def offer(self, topic: Topic, message: bytes) -> None:
        """Queue the newest message of a topic; it replaces an older one that still waits."""
        subscription = self.subscriptions.get(topic)
        paced = subscription is not None and subscription.interval_ms > FLUSH_MS
        waiting = self._paced if paced else self.pending
        TALLY.conflated += topic in waiting
        waiting[topic] = message

    def drop(self, topic: Topic) -> None:
        """Discard the topic's waiting message: a newer one is queued, or none is wanted."""
        self.pending.pop(topic, None)
        self._paced.pop(topic, None)

    def flush(self, now_ms: int) -> None:
        """Send everything that is due as one frame, unless the client has not read the last one."""
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
        """Send an error that states the reason, then close."""
        self.say(Message(type="error", code=code, message=text, data=data))
        self.flush(now_ms)
        self.close(close, text)

    def close(self, code: int, reason: str) -> None:
        """Close the socket and discard what still waits."""
        if self.closing is None:
            self.closing = code
            self._empty_outbox()
            self.pending, self._paced = {}, {}
            metrics.WS_CLOSED.labels(int(code)).inc()
            self._outlet.close(int(code), reason)
