"""One client's state across all its connections: what to request and when to reconnect.

Pure: the inputs are frames, close codes and the time; the outputs are requests, waits and events
for inboxes. Times are seconds of one monotonic clock; randomness is a function that draws from
[0, 1). Must not know sockets.
"""

from __future__ import annotations

import enum
import json
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from swapclient.backoff import Backoff
from swapclient.errors import AuthRefused, ConnectionRefused, RequestRefused
from swapclient.inbox import Inbox
from swapclient.messages import (
    Expiring,
    Freshness,
    Message,
    RetryAfter,
    Status,
    read_data,
    read_frame,
)
from swapclient.topics import Topic

UNAUTHENTICATED: Final = 4001
EXPIRED: Final = 4003
TOO_SLOW: Final = 4008
LIMIT: Final = 4029
ORIGIN: Final = 4403
# After a connection has lasted this long, attempts count from 0 again.
PROVED_AFTER_S: Final = 10.0
RENEW_AGAIN_S: Final = 5.0
LEAST_RENEWAL_S: Final = 0.2
# Below the service's limits of 64 KiB per message and 200 tokens.
REQUEST_BYTES: Final = 48_000
REQUEST_TOKENS: Final = 200

log = logging.getLogger("swapclient")


class State(enum.StrEnum):
    """The state of the connection."""

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    """Lost; another attempt follows."""
    CLOSED = "closed"


class Condition(msgspec.Struct, frozen=True):
    """The state of the connection, and whether the last received numbers may be old."""

    state: State
    stale: bool


class Session:
    """Topics, readers and connection state; `renewable`: the caller can get another token."""

    def __init__(self, backoff: Backoff, draw: Callable[[], float], renewable: bool) -> None:
        self.state = State.CONNECTING
        self.renew_at: float | None = None
        """When to send a newer token."""
        self.error: Exception | None = None
        """Why the client has ended; None if it was closed."""
        self.refusal: ConnectionRefused | None = None
        """Why the service refused the last connection; None once the next one is open."""
        self._backoff = backoff
        self._draw = draw
        self._renewable = renewable
        self._stale = True
        self._attempt = 0
        self._opened_at: float | None = None
        self._retry_after_s: float | None = None
        self._limited_for_s = 0.0
        self._another_token_tried = False
        self._said = self._said_why = ""
        self._inboxes: dict[Topic, list[Inbox]] = {}
        # The service's label of a topic, if it differs from the topic: the parameters of an
        # overview, or the canonical topic of a token that was requested in another spelling.
        self._labels: dict[Topic, str | Topic] = {}
        self._wanted: dict[Topic, None] = {}
        self._unwanted: dict[Topic, None] = {}
        self._asked: dict[str | int, list[Topic]] = {}
        self._renewals: set[str | int] = set()
        self._ids = 0

    @property
    def condition(self) -> Condition:
        """The connection's state, and whether the numbers may be old."""
        return Condition(self.state, self.stale)

    @property
    def stale(self) -> bool:
        """Whether numbers may be old: not connected, or the node reports it."""
        return self.state is not State.OPEN or self._stale

    def add(self, inbox: Inbox) -> None:
        """Subscribe to the inbox's topics."""
        for topic in inbox.topics:
            self._inboxes.setdefault(topic, []).append(inbox)
            self._wanted[topic] = None
            self._unwanted.pop(topic, None)

    def remove(self, inbox: Inbox) -> None:
        """Unsubscribe from the inbox's topics that no other inbox reads."""
        for topic in inbox.topics:
            readers = self._inboxes.get(topic, [])
            if inbox in readers:
                readers.remove(inbox)
            if topic in self._inboxes and not readers:
                del self._inboxes[topic]
                self._wanted.pop(topic, None)
                if not self._is_shared(topic):
                    self._unwanted[topic] = None
                self._labels.pop(topic, None)

    def _is_shared(self, topic: Topic) -> bool:
        """Return whether a topic that another reader spelled differently is the same topic."""
        same = self._labels.get(topic, topic)
        others = (each for key, each in self._labels.items() if key in self._inboxes)
        return same in self._inboxes or same in others

    def fail(self, error: Exception) -> None:
        """End every inbox with the error."""
        self.state = State.CLOSED
        self.error = error
        for inbox in self._every():
            inbox.fail(error)

    def end(self) -> None:
        """End every inbox."""
        self.state = State.CLOSED
        for inbox in self._every():
            inbox.end()

    def _every(self) -> list[Inbox]:
        return [each for readers in self._inboxes.values() for each in readers]

    def connecting(self) -> None:
        """Note the start of an attempt."""
        self.state = State.CONNECTING
        self._said = self._said_why = ""
        self._opened_at = self._retry_after_s = self.renew_at = None
        self._limited_for_s = 0.0
        self._asked.clear()
        self._renewals.clear()
        self._unwanted.clear()
        self._labels.clear()
        self._wanted = dict.fromkeys(self._inboxes)

    def lost(self, code: int | None, now: float) -> float:
        """Note the end of a connection or attempt; return the seconds before the next attempt.

        `code` is that of the close frame, None without one. Sets `refusal` if the service refused
        the connection. Raises AuthRefused if the service no longer accepts the token and there is
        no other.
        """
        wait_s = self._wait_after(code, now)
        self.refusal = None
        if code in {UNAUTHENTICATED, EXPIRED, TOO_SLOW, LIMIT, ORIGIN}:
            why = self._said_why or f"closed with {code}"
            self.refusal = ConnectionRefused(
                self._said or "closed", why, code, wait_s, self._attempt
            )
        return wait_s

    def _wait_after(self, code: int | None, now: float) -> float:
        if code in {UNAUTHENTICATED, EXPIRED}:
            if not self._renewable or self._another_token_tried:
                raise AuthRefused(code, self._said or "refused")
            self._another_token_tried = True
        self.state = State.WAITING
        if self._opened_at is not None and now - self._opened_at >= PROVED_AFTER_S:
            self._attempt = 0
        if self._retry_after_s is not None:
            self._attempt = 0
            return self._retry_after_s
        limited = code in {TOO_SLOW, LIMIT, ORIGIN}
        wait_s = self._backoff.wait_s(self._attempt, self._draw(), limited)
        wait_s += max(0.0, self._limited_for_s - self._backoff.limited_s)
        self._attempt += 1
        return wait_s

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests to send now; each is returned once."""
        if self.state is not State.OPEN:
            return []
        unwanted, self._unwanted = self._unwanted, {}
        wanted, self._wanted = self._wanted, {}
        groups: dict[tuple[Any, ...], list[Topic]] = {}
        for method, topics in (("unsubscribe", unwanted), ("subscribe", wanted)):
            for topic in topics:
                interval_ms = self._interval_ms(topic) if method == "subscribe" else 0
                key = (method, topic.channel, topic.interval, topic.query, interval_ms)
                groups.setdefault(key, []).append(topic)
        return [each for key, topics in groups.items() for each in self._split(key, topics)]

    def _interval_ms(self, topic: Topic) -> int:
        return min(each.interval_ms for each in self._inboxes[topic])

    def _split(self, key: tuple[Any, ...], topics: list[Topic]) -> list[dict[str, Any]]:
        """Combine topics into as few requests as the service's limits allow."""
        method, channel, interval, query, interval_ms = key
        base: dict[str, Any] = {"method": method, "channel": channel}
        if interval is not None:
            base["interval"] = interval
        if query is not None:
            base |= json.loads(query)
        if method == "subscribe" and channel != "trades":
            base["interval_ms"] = interval_ms
        requests: list[dict[str, Any]] = []
        size = REQUEST_BYTES
        for topic in topics:
            resume = self._resume(topic) if method == "subscribe" else None
            cost = 2 * len((topic.token or "").encode()) + 80
            full = requests and len(requests[-1].get("tokens", ())) >= REQUEST_TOKENS
            if not requests or full or size + cost > REQUEST_BYTES:
                requests.append(base | {"req_id": self._next_id()})
                size = 0
            size += cost
            request = requests[-1]
            self._asked.setdefault(request["req_id"], []).append(topic)
            if topic.token is not None:
                request.setdefault("tokens", []).append(topic.token)
            if resume is not None:
                request.setdefault("resume", {})[topic.token] = resume
        return requests

    def _resume(self, topic: Topic) -> dict[str, int] | None:
        """Return what all readers of the topic have; None if one of them has nothing."""
        resumes = [each.resume(topic) for each in self._inboxes[topic]]
        held = [each for each in resumes if each is not None]
        if len(held) < len(resumes):
            return None
        return min(held, key=lambda each: tuple(each.values()), default=None)

    def renewal(self, token: str) -> dict[str, Any]:
        """Return the request that renews the token."""
        self.renew_at = None
        req_id = self._next_id()
        self._renewals.add(req_id)
        return {"method": "auth", "token": token, "req_id": req_id}

    def renewal_failed(self, now: float) -> None:
        """Note that there is no newer token now, and schedule another try soon."""
        self.renew_at = now + RENEW_AGAIN_S * (0.5 + self._draw() / 2)

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    def received(self, frame: str | bytes, now: float) -> None:
        """Process a frame of the service. Raises ProtocolFault if it cannot be decoded."""
        for message in read_frame(frame):
            self._on_message(message, now)

    def _on_message(self, message: Message, now: float) -> None:
        kind = message.type
        if message.channel is not None and kind in {"snapshot", "update", "gap"}:
            self._on_data(message)
        elif kind == "ack":
            self._on_ack(message)
        elif kind == "heartbeat":
            self._stale = read_data(message, Freshness).stale
        elif kind == "welcome":
            self._on_welcome(message, now)
        elif kind == "error":
            self._on_error(message, now)
        elif kind == "auth_expiring":
            self._on_expiring(read_data(message, Expiring), now)
        elif kind == "server_shutdown":
            self._retry_after_s = read_data(message, RetryAfter).retry_after_ms / 1_000
        elif kind == "notice":
            log.info("notice: %s", message.message)

    def _on_welcome(self, message: Message, now: float) -> None:
        self.state = State.OPEN
        self._stale = read_data(message, Freshness).stale
        self._opened_at = now
        self.refusal = None
        self._another_token_tried = False

    def _on_data(self, message: Message) -> None:
        channel = message.channel or ""
        if channel == "status":
            status = read_data(message, Status)
            self._stale = status.stale or not status.connected
        label = _label(message)
        topics = [topic for topic, each in self._labels.items() if each == label]
        if isinstance(label, Topic):
            topics.append(label)
        for topic in topics:
            for inbox in self._inboxes.get(topic, ()):
                inbox.take(topic, message)

    def _on_ack(self, message: Message) -> None:
        if message.req_id is None:
            return
        self._renewals.discard(message.req_id)
        asked = self._asked.get(message.req_id, [])
        # An ack names the canonical id; `asked` is the spelling of the request.
        name = message.token if message.asked is None else message.asked
        topic = next((each for each in asked if each.token == name), None)
        if topic is None:
            return
        asked.remove(topic)
        if not asked:
            del self._asked[message.req_id]
        if message.method != "subscribe":
            return
        if message.error is not None:
            for inbox in self._inboxes.get(topic, ()):
                inbox.refuse(topic, message.error.code, message.error.message)
        elif topic in self._inboxes and (topic.channel == "overview" or message.asked is not None):
            self._labels[topic] = _label(message)

    def _on_error(self, message: Message, now: float) -> None:
        if message.req_id is not None and message.req_id in self._renewals:
            self._renewals.discard(message.req_id)
            log.warning("token not renewed: %s: %s", message.code, message.message)
            self.renewal_failed(now)
            return
        if message.code == "rate_limited" and bytes(message.data) != b"null":
            self._limited_for_s = read_data(message, RetryAfter).retry_after_ms / 1_000
        asked = self._asked.pop(message.req_id, []) if message.req_id is not None else []
        if not asked:
            self._said, self._said_why = message.code, message.message
            log.warning("%s: %s", message.code, message.message)
        error = RequestRefused(message.code, message.message)
        for topic in asked:
            for inbox in self._inboxes.get(topic, []).copy():
                inbox.fail(error)
                self.remove(inbox)

    def _on_expiring(self, expiring: Expiring, now: float) -> None:
        """Renew within the first half of the remaining time, spread over it for many clients."""
        if self._renewable:
            left_s = expiring.expires_in_ms / 1_000
            self.renew_at = now + max(LEAST_RENEWAL_S, left_s * self._draw() / 2)
        else:
            log.warning("the token expires in %d ms and is no function", expiring.expires_in_ms)


def _label(message: Message) -> str | Topic:
    if message.channel == "overview":
        return json.dumps(message.params, sort_keys=True)
    return Topic(message.channel or "", message.token, message.interval)
