"""Handle a client's requests: one session per socket, from authentication to the last request.

A session reads requests, checks them against the limits and the client's scopes, and acts on the
hub. Every request is answered, and completed before the next one is read. A session waits only for
the verification of a JWT (its key may have to be fetched), for the rate limits, and for a client
that does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from aggregator.contracts.ids import TokenIdInvalid, canonical_token_id
from aggregator.contracts.intervals import FLUSH_MS
from aggregator.contracts.stats import usd_text
from aggregator.runtime import metrics
from api.auth.access import SubjectLimits
from api.auth.jwt import Claims, TokenRefused
from api.auth.ratelimit import COST_CONNECT, COST_MESSAGE, RateDecision
from api.auth.scopes import STATS_READ, WS_CONNECT
from api.board.overview import OverviewQuery
from api.board.overview_params import OverviewParams, fault_of, sentence
from api.problem import Problem
from api.sockets import protocol
from api.sockets.connection import Connection
from api.sockets.hub import Hub
from api.sockets.limits import Allowance
from api.sockets.protocol import (
    LONGEST_INTERVAL_MS,
    Auth,
    Close,
    Fault,
    ListSubscriptions,
    Message,
    Ping,
    RequestId,
    RequestRefused,
    Resume,
    Selection,
    Subscribe,
    Unsubscribe,
)
from api.sockets.topic import TopicKey

MOST_OVERVIEW_TOKENS: Final = 100
PORTION_COST: Final = 50
PAID_WITHIN_S: Final = 20
PAY_AGAIN_S: Final = 0.25
LOOK_AGAIN_S: Final = 0.02
# A JWT that was valid once is refused with one of these: the client needs another one.
OUTDATED: Final = frozenset({"token_expired", "token_revoked"})
AUTH_RETRY_MS: Final = 5_000

_TOKEN_CHANNELS: Final = frozenset({"token_stats", "trades", "candles"})

Verify = Callable[[str], Awaitable[Claims]]
Charge = Callable[[str | None, int], Awaitable[RateDecision]]


class SocketSession:
    """Handle one client's requests. `verify` raises TokenRefused; `now_s` is the wall clock.

    `charge(subject, cost)` takes from the rate limits of the address and of the subject, which REST
    shares; `charge_subject(subject, cost)` only from that of the subject. `limits_of(subject)`
    returns the limits in force now, `hides(token_id)` whether operators hide a token.
    """

    def __init__(
        self,
        connection: Connection,
        hub: Hub,
        *,
        verify: Verify,
        charge: Charge,
        charge_subject: Charge,
        limits_of: Callable[[str], SubjectLimits],
        hides: Callable[[str], bool],
        windows: list[str],
        leeway_ms: int,
        now_ms: Callable[[], int],
        now_s: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._verify = verify
        self._charge = charge
        self._charge_subject = charge_subject
        self._sleep = sleep
        self._limits_of = limits_of
        self._hides = hides
        self._windows = windows
        self._leeway_ms = leeway_ms
        self._now_ms = now_ms
        self._now_s = now_s
        self._allowance = Allowance(hub.limits.messages_per_s, now_ms())

    def welcome(self) -> None:
        """Send the first message, whether or not the client is authenticated."""
        limits, claims = self._hub.limits, self._connection.claims
        most = self._limits_of(claims.subject if claims is not None else "").subscriptions
        self._connection.say(
            Message(
                type="welcome",
                data={
                    "authenticated": claims is not None,
                    "windows": self._windows,
                    "stale": self._hub.stale,
                    "limits": {
                        "subscriptions": most,
                        "messages_per_s": limits.messages_per_s,
                        "message_bytes": limits.message_bytes,
                    },
                },
            )
        )

    async def authenticate(self, token: str) -> bool:
        """Authenticate the client; on failure send the reason and close. Return the success."""
        connection = self._connection
        try:
            claims = await self._checked(token)
        except TokenRefused as refused:
            self._refuse_token(refused)
            return False
        if not await self._pays(claims.subject, COST_CONNECT):
            return False
        try:
            # The JWT may have been revoked during the call for the rates. From here to `admit`
            # nothing is awaited, and after `admit` a revocation closes the socket.
            claims = await self._checked(token)
        except TokenRefused as refused:
            self._refuse_token(refused)
            return False
        most = self._limits_of(claims.subject).connections
        if not self._hub.admit(connection, claims, most):
            text = f"at most {most} connections a subject"
            connection.refuse("too_many_connections", text, Close.LIMIT, self._now_ms())
            metrics.LIMITS_HIT.labels("ws_subject_connections").inc()
            return False
        self._hub.expect_expiry(connection, self._expires_at(claims))
        return True

    def _refuse_token(self, refused: TokenRefused) -> None:
        """Send why the JWT is refused, and close."""
        close: Close = Close.UNAUTHENTICATED
        data: object = msgspec.UNSET
        if refused.code in OUTDATED:
            close = Close.EXPIRED
        elif refused.code == "auth_unavailable":
            # The JWT is not at fault: another node accepts it now, or this one soon.
            close, data = Close.RESTART, {"retry_after_ms": AUTH_RETRY_MS}
        self._connection.refuse(refused.code, refused.detail, close, self._now_ms(), data)
        metrics.AUTH_REFUSED.labels("ws", refused.code).inc()

    async def attempt(self) -> bool:
        """Charge the address for a handshake; close if it has made too many."""
        return await self._pays(None, COST_MESSAGE)

    async def _pays(self, subject: str | None, cost: int) -> bool:
        """Return whether the rate limits allow the cost; if not, send the wait and close."""
        decision = await self._charge(subject, cost)
        if decision.passed:
            return True
        self._refuse_rate(decision)
        return False

    def _refuse_rate(self, decision: RateDecision) -> None:
        data = {"retry_after_ms": decision.retry_after_s * 1_000}
        text = f"too many requests: wait {decision.retry_after_s} s"
        self._connection.refuse("rate_limited", text, Close.LIMIT, self._now_ms(), data)

    async def _pays_in_time(self, subject: str, cost: int) -> bool:
        """Wait up to PAID_WITHIN_S for the subject's rate limit to allow the cost.

        Nothing is read from the client meanwhile, so a request for many tokens is slowed down and
        not refused. Return False if the socket is closed.
        """
        decision = await self._charge_subject(subject, cost)
        if decision.passed:
            return True
        metrics.LIMITS_HIT.labels("ws_subscription_cost").inc()
        until = self._now_ms() + PAID_WITHIN_S * 1_000
        with self._not_reading():
            while not decision.passed and self._connection.closing is None:
                if self._now_ms() >= until:
                    self._refuse_rate(decision)
                    return False
                await self._sleep(PAY_AGAIN_S)
                decision = await self._charge_subject(subject, cost)
        return self._connection.closing is None

    async def _has_room(self) -> bool:
        """Wait until the client has read most of its outbox; return False if it is closed."""
        connection = self._connection
        if connection.crowded:
            with self._not_reading():
                while connection.crowded and connection.closing is None:
                    await self._sleep(LOOK_AGAIN_S)
        return connection.closing is None

    @contextlib.contextmanager
    def _not_reading(self) -> Iterator[None]:
        self._connection.pause_reading()
        try:
            yield
        finally:
            self._connection.resume_reading()

    async def receive(self, text: str | bytes) -> None:
        """Handle one message of the client."""
        connection, now_ms = self._connection, self._now_ms()
        if connection.closing is not None:
            return
        limits = self._hub.limits
        if len(text) > limits.message_bytes:
            said = f"a message may have at most {limits.message_bytes} bytes"
            connection.refuse("message_too_large", said, Close.LIMIT, now_ms)
            metrics.LIMITS_HIT.labels("ws_message_bytes").inc()
        elif not self._allowance.take(now_ms):
            said = f"at most {limits.messages_per_s} messages a second"
            connection.refuse("rate_limited", said, Close.LIMIT, now_ms)
            metrics.LIMITS_HIT.labels("ws_messages").inc()
        else:
            claims = connection.claims
            paid = await self._pays(claims.subject if claims is not None else None, COST_MESSAGE)
            if not paid or not await self._has_room():
                return
            try:
                await self._act(protocol.read(text))
            except RequestRefused as refused:
                self._error(refused.code, refused.message, refused.req_id)

    async def _act(self, request: protocol.Request) -> None:
        if isinstance(request, Ping):
            self._connection.say(Message(type="pong", req_id=request.req_id))
        elif isinstance(request, Auth):
            await self._auth(request)
        elif self._connection.claims is None:
            self._error("unauthenticated", "show a token first: method auth", request.req_id)
        elif isinstance(request, Subscribe):
            await self._subscribe(request)
        elif isinstance(request, Unsubscribe):
            self._unsubscribe(request)
        else:
            self._list(request)

    def _error(self, code: str, text: str, req_id: RequestId) -> None:
        self._connection.say(Message(type="error", code=code, message=text, req_id=req_id))

    async def _checked(self, token: str) -> Claims:
        claims = await self._verify(token)
        if WS_CONNECT not in claims.scopes:
            raise TokenRefused("scope_missing", f"The token lacks the scope {WS_CONNECT}.")
        return claims

    def _expires_at(self, claims: Claims) -> int:
        """Return when to close, by the monotonic clock; an expired JWT has its leeway left."""
        left_ms = int((claims.expires_at - self._now_s()) * 1_000)
        return self._now_ms() + (left_ms if left_ms > 0 else left_ms + self._leeway_ms)

    async def _auth(self, request: Auth) -> None:
        connection = self._connection
        if connection.claims is None:
            if not await self.authenticate(request.token):
                return
        elif not await self._renew(connection.claims, request):
            return
        assert connection.claims is not None
        data = {"expires_at": int(connection.claims.expires_at * 1_000)}
        connection.say(Message(type="ack", method="auth", req_id=request.req_id, data=data))

    async def _renew(self, before: Claims, request: Auth) -> bool:
        """Accept a newer JWT of the same subject; if it is refused, the old one stays in force."""
        try:
            claims = await self._checked(request.token)
        except TokenRefused as refused:
            self._error(refused.code, refused.detail, request.req_id)
            metrics.AUTH_REFUSED.labels("ws", refused.code).inc()
            return False
        if claims.subject != before.subject:
            text = "the token is of another subject: open another connection for it"
            self._error("subject_changed", text, request.req_id)
            return False
        self._connection.claims = claims
        self._hub.expect_expiry(self._connection, self._expires_at(claims))
        if STATS_READ not in claims.scopes:
            self._end_subscriptions()
        return True

    def _end_subscriptions(self) -> None:
        """End all subscriptions except `status`: the newer JWT lacks their scope."""
        fault = Fault("scope_missing", f"the newer token lacks the scope {STATS_READ}")
        for topic in list(self._connection.subscriptions):
            channel = topic.key.channel
            if channel == "status":
                continue
            self._hub.unsubscribe(self._connection, topic)
            self._connection.say(
                Message(
                    type="ack", method="unsubscribe", channel=channel, error=fault, **topic.labels
                )
            )

    async def _subscribe(self, request: Subscribe) -> None:
        if not FLUSH_MS <= request.interval_ms <= LONGEST_INTERVAL_MS:
            raise RequestRefused(
                "request_invalid",
                f"interval_ms: give {FLUSH_MS} to {LONGEST_INTERVAL_MS}",
                request.req_id,
            )
        self._check_scope(request)
        resumes = _resumes(request)
        claims = self._connection.claims
        assert claims is not None
        selected = deque(self._selected(request))
        while selected:
            # Charge in portions: a cost above the size of the bucket would count only as its size.
            portion: list[tuple[TopicKey, dict[str, Any], Fault | None, str | None]] = []
            cost = 0
            most = min(PORTION_COST, self._limits_of(claims.subject).burst)
            while selected and (not portion or cost + self._hub.cost(selected[0][0]) <= most):
                cost += self._hub.cost(selected[0][0])
                portion.append(selected.popleft())
            if not await self._pays_in_time(claims.subject, cost):
                return
            for key, labels, wrong, asked in portion:
                if not await self._has_room():
                    return
                resume = resumes.get(asked or labels.get("token", ""), resumes.get(""))
                ack = msgspec.structs.replace(
                    _ack("subscribe", request, labels, asked), error=wrong
                )
                self._subscribe_one(request, key, labels, ack, resume)

    def _subscribe_one(
        self,
        request: Subscribe,
        key: TopicKey,
        labels: dict[str, Any],
        ack: Message,
        resume: Resume | None,
    ) -> None:
        fault = ack.error or self._fault(key)
        if fault is not None:
            self._connection.say(msgspec.structs.replace(ack, error=fault))
            return
        topic = self._hub.subscribe(self._connection, key, labels, request.interval_ms)
        # The ack says whether the client resumed, which only `begin` knows, but the ack must come
        # before the messages that `begin` queues.
        mark = self._connection.mark()
        sent = self._hub.begin(self._connection, topic, resume)
        resumed = resume is not None and not sent
        self._connection.insert(mark, msgspec.structs.replace(ack, resumed=resumed))

    def _unsubscribe(self, request: Unsubscribe) -> None:
        for key, labels, _, asked in self._selected(request):
            ack = _ack("unsubscribe", request, labels, asked)
            topic = self._hub.topic(key)
            if topic is not None and topic in self._connection.subscriptions:
                self._hub.unsubscribe(self._connection, topic)
            else:
                fault = Fault("not_subscribed", "there is no such subscription")
                ack = msgspec.structs.replace(ack, error=fault)
            self._connection.say(ack)

    def _list(self, request: ListSubscriptions) -> None:
        subscriptions = [
            {"channel": topic.key.channel, **topic.labels, "interval_ms": each.interval_ms}
            for topic, each in self._connection.subscriptions.items()
        ]
        self._connection.say(
            Message(
                type="ack",
                method="list_subscriptions",
                req_id=request.req_id,
                data={"subscriptions": subscriptions},
            )
        )

    def _check_scope(self, request: Subscribe) -> None:
        claims = self._connection.claims
        assert claims is not None
        if request.channel != "status" and STATS_READ not in claims.scopes:
            text = f"channel: the token lacks the scope {STATS_READ}"
            raise RequestRefused("scope_missing", text, request.req_id)

    def _fault(self, key: TopicKey) -> Fault | None:
        """Return why one more subscription is refused; None if it is allowed."""
        held, claims = self._connection.subscriptions, self._connection.claims
        assert claims is not None
        topic = self._hub.topic(key)
        most = self._limits_of(claims.subject).subscriptions
        if len(held) >= most and (topic is None or topic not in held):
            metrics.LIMITS_HIT.labels("ws_subscriptions").inc()
            return Fault("too_many_subscriptions", f"at most {most} subscriptions a connection")
        return None

    def _selected(
        self, request: Selection
    ) -> Iterable[tuple[TopicKey, dict[str, Any], Fault | None, str | None]]:
        """Yield the topics that a request names: key, labels, fault, requested id.

        The requested id is None if it equals the canonical one.
        """
        channel = request.channel
        self._check_fields(request)
        if channel == "status":
            yield TopicKey(channel, None), {}, None, None
        elif channel == "overview":
            query = _overview(request, self._windows)
            yield TopicKey(channel, query), {"params": _params(query)}, None, None
        else:
            for asked in dict.fromkeys(request.tokens):
                token_id, fault = _token(asked)
                labels = {"token": token_id}
                subject: Any = token_id
                if channel == "candles":
                    assert request.interval is not None
                    labels["interval"] = request.interval
                    subject = (token_id, request.interval)
                if fault is None and self._hides(token_id):
                    fault = Fault("token_not_found", "there is no such token")
                differs = asked if asked != token_id else None
                yield TopicKey(channel, subject), labels, fault, differs

    def _check_fields(self, request: Selection) -> None:
        """Raise RequestRefused if a field is missing or does not belong to the channel."""
        channel, fault = request.channel, None
        if channel in _TOKEN_CHANNELS and not request.tokens:
            fault = "tokens: give at least one token id"
        elif channel not in _TOKEN_CHANNELS and request.tokens:
            fault = f"tokens: the channel {channel} has none"
        elif len(request.tokens) > self._hub.limits.tokens_a_message:
            fault = f"tokens: at most {self._hub.limits.tokens_a_message} in one message"
        elif (channel == "candles") != (request.interval is not None):
            fault = "interval: give it for the channel candles, and for no other"
        elif channel != "overview" and request.overview():
            name = next(iter(request.overview()))
            fault = f"{name}: the channel {channel} does not have it"
        if fault is not None:
            raise RequestRefused("request_invalid", fault, request.req_id)


def _token(asked: str) -> tuple[str, Fault | None]:
    """Return the canonical token id, or the text itself and a fault if it cannot be an id."""
    try:
        return canonical_token_id(asked), None
    except TokenIdInvalid as error:
        return asked, Fault("token_invalid", f"tokens: {error}")


def _ack(method: str, request: Selection, labels: dict[str, Any], asked: str | None) -> Message:
    return Message(
        type="ack",
        method=method,
        channel=request.channel,
        req_id=request.req_id,
        asked=asked,
        **labels,
    )


def _resumes(request: Subscribe) -> dict[str, Resume]:
    """Return the resumes by token id; "" stands for every token."""
    given = request.resume
    if given is None:
        return {}
    try:
        if given.keys() <= set(Resume.__struct_fields__):
            return {"": msgspec.convert(given, Resume)}
        return msgspec.convert(given, dict[str, Resume])
    except msgspec.ValidationError as error:
        raise RequestRefused("request_invalid", f"resume: {error}", request.req_id) from None


def _overview(request: Selection, windows: list[str]) -> OverviewQuery:
    """Return the query, by the rules of REST but with fewer tokens."""
    try:
        query = OverviewParams.model_validate(request.overview()).query(windows)
    except ValidationError as error:
        text = sentence(fault_of(error.errors(include_url=False)[0], request.overview()))
        raise RequestRefused("request_invalid", text, request.req_id) from None
    except Problem as problem:
        raise RequestRefused("request_invalid", problem.detail, request.req_id) from None
    if query.limit > MOST_OVERVIEW_TOKENS:
        text = f"limit: at most {MOST_OVERVIEW_TOKENS}"
        raise RequestRefused("request_invalid", text, request.req_id)
    return query


def _params(query: OverviewQuery) -> dict[str, Any]:
    """Return the query's parameters under their public names, without filters not in use."""
    params: dict[str, Any] = {
        "window": query.window,
        "sort": query.sort,
        "order": query.order,
        "limit": query.limit,
    }
    filters = {
        "chain": query.chain,
        "min_volume_usd": usd_text(query.min_volume_micros) if query.min_volume_micros else None,
        "min_trades": query.min_trades,
        "q": query.q,
    }
    return params | {name: value for name, value in filters.items() if value}
