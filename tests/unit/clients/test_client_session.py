"""The session's requests, its view of freshness, and its reconnects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swapclient import AuthRefused, Backoff, ProtocolFault, Refused, RequestRefused, State
from swapclient.backoff import TokenBucket
from swapclient.client import _topics, socket_url
from swapclient.events import CandlesUpdate, OverviewUpdate, StatsUpdate
from swapclient.inbox import Inbox
from swapclient.session import Session
from swapclient.topics import Topic

from tests.unit.clients.trading import frame, welcome

A, B = Topic("token_stats", "ethereum:0xaa"), Topic("token_stats", "ethereum:0xbb")


def opened(*inboxes: Inbox, renewable: bool = False, draw: float = 0.5) -> Session:
    session = Session(Backoff(), lambda: draw, renewable)
    for inbox in inboxes:
        session.add(inbox)
    session.received(frame(welcome()), 0)
    return session


def stats(seq: int, *, epoch: int = 1, stale: bool = False, as_of: int = 0) -> dict[str, Any]:
    row = {
        "token_id": A.token,
        "chain": "ethereum",
        "token": "0xaa",
        "symbol": None,
        "epoch": epoch,
        "seq": seq,
        "as_of": as_of or seq,
        "watermark": None,
        "stale": stale,
        "last_price_usd": None,
        "last_trade_at": None,
        "quality": {},
        "windows": {},
    }
    return {"channel": "token_stats", "type": "update", "token": A.token, "data": row}


def ack(request: dict[str, Any], token: str | None = None, **fields: Any) -> dict[str, Any]:
    both = {name: request[name] for name in ("method", "channel", "req_id")}
    return {"type": "ack", **both, **({"token": token} if token else {}), **fields}


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 30), st.booleans()), max_size=40))
def test_numbers_never_go_back_and_the_newest_is_what_is_left(
    places: list[tuple[int, int, bool]],
) -> None:
    inbox = Inbox([A], 100, 1)
    session = opened(inbox)
    for epoch, seq, stale in places:
        session.received(frame(stats(seq, epoch=epoch, stale=stale)), 0)
    event = inbox.pop()
    assert inbox.pop() is None
    if not places:
        assert event is None
        return
    assert isinstance(event, StatsUpdate)
    assert event.stats is not None
    newest = max((epoch, seq) for epoch, seq, _ in places)
    last_stale = [stale for epoch, seq, stale in places if (epoch, seq) == newest][-1]
    assert (event.stats.epoch, event.stats.seq, event.stats.stale) == (*newest, last_stale)


def test_epochs_that_begin_again_are_believed_when_they_are_much_younger() -> None:
    inbox = Inbox([A], 100, 1)
    session = opened(inbox)
    session.received(frame(stats(9, epoch=7, as_of=100_000), stats(1, as_of=105_000)), 0)
    event = inbox.pop()
    assert isinstance(event, StatsUpdate)
    assert event.stats is not None
    assert event.stats.epoch == 7
    session.received(frame(stats(2, as_of=111_000)), 0)
    event = inbox.pop()
    assert isinstance(event, StatsUpdate)
    assert event.stats is not None
    assert event.stats.epoch == 1


@pytest.mark.parametrize(
    ("seen", "resume"),
    [
        pytest.param([], None, id="nothing yet"),
        pytest.param([stats(4)], {"epoch": 1, "seq": 4}, id="a row"),
        pytest.param([stats(4, stale=True)], None, id="a stale row needs a fresh snapshot"),
        pytest.param([stats(4), {**stats(0), "data": None}], None, id="a row that went away"),
    ],
)
def test_resume_names_what_the_reader_has(seen: list[dict[str, Any]], resume: object) -> None:
    session = opened(Inbox([A], 100, 1))
    session.requests()
    session.received(frame(*seen), 0)
    session.lost(None, 1)
    session.connecting()
    session.received(frame(welcome()), 2)
    (request,) = session.requests()
    assert request.get("resume", {}).get(A.token) == resume


def test_requests_are_few_and_below_the_limits_of_a_message() -> None:
    topics = [Topic("token_stats", f"ethereum:{n:0128d}") for n in range(1_000)]
    session = opened(Inbox(topics, 100, 1))
    requests = session.requests()
    assert [token for each in requests for token in each["tokens"]] == [t.token for t in topics]
    assert all(len(each["tokens"]) <= 200 for each in requests)
    assert all(len(json.dumps(each)) < 65_536 for each in requests)
    assert len(requests) < 10
    assert session.requests() == []


def test_one_refused_token_leaves_the_others_and_a_refused_request_ends_its_readers() -> None:
    inbox, overview = Inbox([A, B], 100, 1), Inbox([Topic("overview", query="{}")], 100, 1)
    session = opened(inbox, overview)
    first, second = session.requests()
    fault = {"code": "token_invalid", "message": "tokens: no"}
    error = {"type": "error", "code": "request_invalid", "message": "window: no"}
    session.received(
        frame(
            ack(first, B.token, error=fault),
            ack(first, A.token),
            stats(1),
            error | {"req_id": second["req_id"]},
        ),
        0,
    )
    assert inbox.pop() == Refused("token_stats", B.token, "token_invalid", "tokens: no")
    assert isinstance(inbox.pop(), StatsUpdate)
    assert overview.ended
    with pytest.raises(RequestRefused, match="window: no"):
        overview.pop()
    session.connecting()
    session.received(frame(welcome()), 0)
    assert [each["channel"] for each in session.requests()] == ["token_stats"]


def overview_message(params: dict[str, Any], as_of: int) -> dict[str, Any]:
    totals = dict.fromkeys(("tokens", "trades", "buys", "sells"), 0)
    totals |= dict.fromkeys(("volume_usd", "buy_volume_usd", "sell_volume_usd"), "0")  # type: ignore[arg-type]
    data = {"as_of": as_of, "window": "1h", "totals": totals, "tokens": [], "stale": False}
    return {"channel": "overview", "type": "snapshot", "params": params, "data": data}


def test_overviews_are_distinguished_by_what_the_service_understood() -> None:
    short = Inbox([Topic("overview", query='{"window": "5m"}')], 100, 1)
    default = Inbox([Topic("overview", query="{}")], 100, 1)
    explicit = Inbox([Topic("overview", query='{"window": "1h"}')], 100, 1)
    session = opened(short, default, explicit)
    labels = [{"window": "5m"}, {"window": "1h"}, {"window": "1h"}]
    requests = session.requests()
    acks = [ack(each, params=p) for each, p in zip(requests, labels, strict=True)]
    session.received(frame(*acks, overview_message({"window": "1h"}, 5)), 0)
    assert short.pop() is None
    assert isinstance(default.pop(), OverviewUpdate)
    assert isinstance(explicit.pop(), OverviewUpdate)
    # The service has one subscription for both; closing the last one ends it.
    session.remove(default)
    assert session.requests() == []
    session.remove(explicit)
    (request,) = session.requests()
    assert (request["method"], request["window"]) == ("unsubscribe", "1h")


def candles_message(kind: str, seq: int, *opened_at: int) -> dict[str, Any]:
    prices = dict.fromkeys(("open_usd", "high_usd", "low_usd", "close_usd", "vwap_usd"))
    rows = [
        {"open_time": at, "close_time": at + 60, "volume_usd": str(seq), "volume_token": "1"}
        | {"trades": 1}
        | prices
        for at in opened_at
    ]
    labels = {"token": A.token, "interval": "1m", "epoch": 1, "seq": seq}
    return {"channel": "candles", "type": kind, **labels, "data": {"candles": rows}}


def test_candles_that_wait_are_joined_so_that_none_is_lost() -> None:
    inbox = Inbox([Topic("candles", A.token, "1m")], 100, 1)
    session = opened(inbox)
    messages = candles_message("snapshot", 1, 0, 60), candles_message("update", 2, 60, 120)
    session.received(frame(*messages), 0)
    event = inbox.pop()
    assert isinstance(event, CandlesUpdate)
    assert event.snapshot
    assert [(each.open_time, each.volume_usd) for each in event.candles] == [
        (0, "1"),
        (60, "2"),
        (120, "2"),
    ]
    assert inbox.conflated == 1


def test_staleness_is_that_of_the_node_and_of_the_connection() -> None:
    session = Session(Backoff(), lambda: 0.5, False)
    assert session.stale
    session.received(frame(welcome()), 0)
    assert (session.state, session.stale) == (State.OPEN, False)
    session.received(frame({"type": "heartbeat", "data": {"stale": True}}), 0)
    assert session.stale
    status = {"stale": False, "connected": True, "partitions": []}
    session.received(frame({"channel": "status", "type": "update", "data": status}), 0)
    assert not session.stale
    session.received(
        frame({"channel": "status", "type": "update", "data": status | {"connected": False}}), 0
    )
    assert session.stale
    session.received(frame({"type": "heartbeat", "data": {"stale": False}}), 0)
    session.lost(None, 0)
    assert (session.state, session.stale) == (State.WAITING, True)


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 60))
def test_waits_grow_to_a_bound_and_are_spread_from_nothing(draw: float, losses: int) -> None:
    session = Session(Backoff(first_s=0.5, longest_s=30), lambda: draw, False)
    for attempt in range(losses):
        session.connecting()
        assert session.lost(None, 0) == draw * min(30, 0.5 * 2**attempt)
    assert Backoff().wait_s(2_000, draw) <= 30


def test_attempts_start_again_only_after_a_connection_has_lasted() -> None:
    session = Session(Backoff(first_s=1), lambda: 0.5, False)
    waits = []
    for lasted in (1, 1, 20, 1):
        session.connecting()
        session.received(frame(welcome()), 0)
        waits.append(session.lost(1006, lasted))
    assert waits == [0.5, 1, 0.5, 1]


@pytest.mark.parametrize("code", [1012, None])
def test_the_retry_hint_of_a_node_that_stops_is_obeyed_exactly(code: int | None) -> None:
    session = opened()
    session.received(frame({"type": "server_shutdown", "data": {"retry_after_ms": 2_140}}), 0)
    assert session.lost(code, 0) == 2.14
    session.connecting()
    assert session.lost(None, 0) == 0.25


@pytest.mark.parametrize("code", [4008, 4029])
def test_limits_wait_longer(code: int) -> None:
    assert opened(draw=0).lost(code, 0) == 5


@pytest.mark.parametrize(("hint_ms", "wait_s"), [(2_000, 5), (60_000, 60)])
def test_after_an_exceeded_rate_it_waits_as_long_as_the_service_says(
    hint_ms: int, wait_s: int
) -> None:
    session = opened(draw=0)
    data = {"retry_after_ms": hint_ms}
    session.received(
        frame({"type": "error", "code": "rate_limited", "message": "x", "data": data}), 0
    )
    assert session.lost(4029, 0) == wait_s
    session.connecting()
    assert session.lost(None, 0) == 0


@pytest.mark.parametrize("code", [4001, 4003])
def test_a_refused_token_raises_immediately_or_after_another_was_tried(code: int) -> None:
    said = frame({"type": "error", "code": "token_revoked", "message": "revoked"})
    session = opened()
    session.received(said, 0)
    with pytest.raises(AuthRefused, match=f"token_revoked.*{code}") as raised:
        session.lost(code, 0)
    assert raised.value.close_code == code

    session = opened(renewable=True)
    assert session.lost(code, 0) > 0
    session.connecting()
    with pytest.raises(AuthRefused):
        session.lost(code, 0)


def test_the_token_is_renewed_before_it_expires_and_again_where_that_failed() -> None:
    expiring = frame({"type": "auth_expiring", "data": {"expires_in_ms": 60_000}})
    fixed = opened()
    fixed.received(expiring, 100)
    assert fixed.renew_at is None

    session = opened(renewable=True)
    session.received(expiring, 100)
    assert session.renew_at == 115
    request = session.renewal("newer")
    assert (request["method"], request["token"], session.renew_at) == ("auth", "newer", None)
    error = {"type": "error", "code": "token_expired", "message": "", "req_id": request["req_id"]}
    session.received(frame(error), 120)
    assert session.renew_at == 123.75
    session.renewal("newest")
    session.received(frame({"type": "ack", "method": "auth", "req_id": 2, "data": {}}), 124)
    assert session.renew_at is None


@pytest.mark.parametrize("text", ["{}", "[1]", "[", '[{"type": "welcome", "data": {}}]'])
def test_what_cannot_be_read_is_a_fault(text: str) -> None:
    with pytest.raises(ProtocolFault):
        opened().received(text, 0)


def test_unknown_messages_and_fields_are_ignored() -> None:
    inbox = Inbox([A], 100, 1)
    session = opened(inbox)
    new = {"type": "novelty", "data": {"x": 1}}, {"channel": "later", "type": "update", "data": 1}
    session.received(frame(*new, stats(1) | {"shade": "blue"}), 0)
    assert isinstance(inbox.pop(), StatsUpdate)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=200))
def test_requests_are_sent_no_faster_than_the_service_allows(pauses: list[float]) -> None:
    bucket, now, sent = TokenBucket(0.0), 0.0, []
    for pause in pauses:
        now += pause
        now += bucket.take(now)
        sent.append(now)
    for index, at in enumerate(sent):
        within = [each for each in sent[index:] if each <= at + 1]
        assert len(within) <= 36


@pytest.mark.parametrize(
    ("given_url", "url"),
    [
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/ws"),
        ("https://host/", "wss://host/ws"),
        ("wss://host/other/ws", "wss://host/other/ws"),
    ],
)
def test_the_address_may_be_the_service_or_its_socket(given_url: str, url: str) -> None:
    assert socket_url(given_url) == url


@pytest.mark.parametrize(
    "arguments",
    [
        ("token_stats", [], None, {}),
        ("trades", "ethereum:0xaa", None, {}),
        ("candles", ["ethereum:0xaa"], None, {}),
        ("trades", ["ethereum:0xaa"], "1m", {}),
        ("status", [], None, {"window": "1h"}),
    ],
)
def test_a_subscription_without_its_arguments_is_refused_immediately(arguments: Any) -> None:
    with pytest.raises(ValueError, match=r"^\w+: "):
        _topics(*arguments)
    with pytest.raises(ValueError, match=r"^url: "):
        socket_url("host/ws")


SPELLED = Topic("token_stats", "ethereum:0xAA")


def test_a_token_that_was_spelled_otherwise_is_known_by_its_ack() -> None:
    inbox = Inbox([SPELLED], 100, 1)
    session = opened(inbox)
    (request,) = session.requests()
    session.received(frame(ack(request, A.token, asked=SPELLED.token), stats(1)), 0)
    event = inbox.pop()
    assert isinstance(event, StatsUpdate)
    assert event.token == A.token
    session.received(frame(stats(2)), 0)
    assert isinstance(inbox.pop(), StatsUpdate)


def test_a_token_in_two_spellings_is_unsubscribed_when_nobody_reads_either() -> None:
    spelled, canonical = Inbox([SPELLED], 100, 1), Inbox([A], 100, 1)
    session = opened(spelled, canonical)
    (request,) = session.requests()
    session.received(
        frame(
            ack(request, A.token, asked=SPELLED.token),
            ack(request, A.token),
            stats(1),
        ),
        0,
    )
    assert isinstance(spelled.pop(), StatsUpdate)
    assert isinstance(canonical.pop(), StatsUpdate)
    session.remove(canonical)
    assert session.requests() == []
    session.received(frame(stats(2)), 0)
    assert isinstance(spelled.pop(), StatsUpdate)
    session.remove(spelled)
    (request,) = session.requests()
    assert (request["method"], request["tokens"]) == ("unsubscribe", [SPELLED.token])


@pytest.mark.parametrize(
    ("code", "close"),
    [("too_many_connections", 4029), ("origin_not_allowed", 4403), ("token_expired", 4003)],
)
def test_a_refused_connection_says_why_and_when_the_next_attempt_is(code: str, close: int) -> None:
    session = Session(Backoff(), lambda: 0.5, True)
    for attempt in (1, 2):
        session.connecting()
        if close == 4003 and attempt == 2:
            break
        session.received(frame({"type": "error", "code": code, "message": "because"}), 0)
        wait_s = session.lost(close, 1)
        assert session.refusal is not None
        assert (session.refusal.code, session.refusal.reason) == (code, "because")
        assert (session.refusal.close_code, session.refusal.attempts) == (close, attempt)
        assert session.refusal.retry_in_s == wait_s
        assert (wait_s >= 5) == (close != 4003), "a limit or an origin is retried later"
    session.received(frame(welcome()), 2)
    assert session.refusal is None
    session.lost(None, 3)
    assert session.refusal is None, "a connection that was only lost"
