"""The JavaScript client behaves like the Python client for any messages in any order."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from swapclient import AuthRefused, Backoff, RequestRefused
from swapclient.events import CandlesUpdate, Event, Gap, Refused, StatsUpdate, TradesUpdate
from swapclient.inbox import Inbox
from swapclient.session import Session
from swapclient.topics import Topic

from tests.integration.client_processes import node
from tests.unit.clients.test_client_session import candles_message, stats
from tests.unit.clients.trading import trade, welcome

TOKEN = "ethereum:0xaa"
SPELLED = "ethereum:0xAA"
TOPICS = [
    {"channel": "token_stats", "token": TOKEN},
    {"channel": "trades", "token": TOKEN},
    {"channel": "token_stats", "token": SPELLED},
    {"channel": "trades", "token": SPELLED},
    {"channel": "candles", "token": TOKEN, "interval": "1m"},
]


def trades_message(kind: str, life: int, first: int, count: int, numbered: bool) -> dict[str, Any]:
    rows = [trade(n, life) for n in range(first, first + count)]
    data = {"trades": rows} | ({"n": first + count - 1} if numbered else {})
    return {"channel": "trades", "type": kind, "token": TOKEN, "data": data}


def gap_message(first: int, count: int, restarted: bool) -> dict[str, Any]:
    to_n = None if restarted else first + count
    data = {"from_n": first, "to_n": to_n, "restarted": restarted}
    return {"channel": "trades", "type": "gap", "token": TOKEN, "data": data}


def subscribe_ack(req_id: int, channel: str, refused: bool, spelled: bool) -> dict[str, Any]:
    message = {"type": "ack", "method": "subscribe", "req_id": req_id, "channel": channel}
    message |= {"token": TOKEN} | ({"interval": "1m"} if channel == "candles" else {})
    message |= {"asked": SPELLED} if spelled else {}
    error = {"code": "too_many_subscriptions", "message": "tokens: too many"}
    return message | ({"error": error} if refused else {})


small = st.integers(1, 9)
kinds = st.sampled_from(["snapshot", "update", "update"])
messages = st.one_of(
    st.builds(stats, small, epoch=st.integers(1, 2), stale=st.booleans(),
              as_of=st.sampled_from([1, 9_000, 20_000])),
    st.just({"channel": "token_stats", "type": "update", "token": TOKEN, "data": None}),
    st.builds(trades_message, kinds, st.integers(1, 2), small, st.integers(0, 6),
              st.booleans()),
    st.builds(gap_message, small, small, st.booleans()),
    st.builds(candles_message, kinds, small, st.integers(0, 4), st.integers(5, 9)),
    st.builds(subscribe_ack, small, st.sampled_from(["token_stats", "trades", "candles"]),
              st.booleans(), st.booleans()),
    st.builds(lambda n: {"type": "error", "code": "x", "message": "y", "req_id": n}, small),
    st.builds(lambda n: {"type": "error", "code": "rate_limited", "message": "y"}
              | ({"data": {"retry_after_ms": n * 2_000}} if n > 1 else {}), small),
    st.builds(lambda b: {"type": "heartbeat", "data": {"stale": b}}, st.booleans()),
    st.builds(lambda n: {"type": "auth_expiring", "data": {"expires_in_ms": n * 1_000}}, small),
    st.builds(lambda n: {"type": "server_shutdown", "data": {"retry_after_ms": n}}, small),
    st.just(welcome()),
    st.just({"type": "pong"}),
)  # fmt: skip
steps = st.one_of(
    st.tuples(st.just("frame"), st.lists(messages, max_size=4)),
    st.tuples(st.just("pop"), st.none()),
    st.tuples(st.just("requests"), st.none()),
    st.tuples(st.just("lost"), st.sampled_from([None, 1006, 1012, 4003, 4008, 4029, 4403])),
    st.tuples(st.just("connect"), st.none()),
)
scripts = st.fixed_dictionaries(
    {
        "topics": st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique_by=str),
        "buffer": st.integers(1, 8),
        "renewable": st.booleans(),
        "steps": st.lists(steps, min_size=10, max_size=60),
    }
)


@pytest.fixture(scope="module")
def replay() -> Iterator[subprocess.Popen[str]]:
    command = [*node(), str(Path(__file__).with_name("replay.mjs"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(scripts)
def test_both_clients_do_the_same(replay: subprocess.Popen[str], script: dict[str, Any]) -> None:
    begun = [("frame", [welcome()]), ("requests", None), *script["steps"]]
    timed = [[name, value, 4_000 * at] for at, (name, value) in enumerate(begun)]
    assert replay.stdin is not None
    assert replay.stdout is not None
    replay.stdin.write(json.dumps(script | {"steps": timed}) + "\n")
    replay.stdin.flush()
    theirs = json.loads(replay.stdout.readline())
    assert [plain(each) for each in play(script, timed)] == [plain(each) for each in theirs]


def play(script: dict[str, Any], timed: list[list[Any]]) -> list[list[Any]]:
    """Play the same steps with the Python client; seconds become ms."""
    session = Session(Backoff(), lambda: 0.5, script["renewable"])
    inbox = Inbox([Topic(**each) for each in script["topics"]], 100, script["buffer"])
    session.add(inbox)
    results = []
    for name, value, now in timed:
        result = step(session, inbox, name, value, now / 1_000)
        renew_at = None if session.renew_at is None else session.renew_at * 1_000
        results.append(
            [result, str(session.state), session.stale, renew_at, inbox.conflated, refusal(session)]
        )
    return results


def refusal(session: Session) -> dict[str, Any] | None:
    """Return a refusal in the form of the JavaScript client."""
    found = session.refusal
    if found is None:
        return None
    fields = {name: getattr(found, name) for name in ("code", "reason", "close_code", "attempts")}
    return fields | {"retry_in_ms": found.retry_in_s * 1_000}


def step(session: Session, inbox: Inbox, name: str, value: Any, now: float) -> Any:
    try:
        if name == "frame":
            session.received(json.dumps(value), now)
        elif name == "connect":
            session.connecting()
        elif name == "requests":
            return session.requests()
        elif name == "lost":
            return session.lost(value, now) * 1_000
        else:
            return shown(inbox.pop())
    except AuthRefused:
        return {"error": "AuthRefused"}
    except RequestRefused as refused:
        # The iterator raises again on each call, but a handler is called once.
        inbox.error = None
        return {"refused": refused.code}
    return None


def shown(event: Event | None) -> Any:
    """Return an event in the form of the JavaScript client."""
    if event is None:
        return None
    if isinstance(event, Refused):
        return {"refused": event.code}
    fields = msgspec.to_builtins(event)
    if isinstance(event, Gap):
        return {"kind": "gap", **fields}
    head = {"kind": "update", "token": event.token, "snapshot": event.snapshot}
    if isinstance(event, StatsUpdate):
        row = fields["stats"]
        return head | {"data": row and {name: row[name] for name in ("epoch", "seq", "stale")}}
    if isinstance(event, TradesUpdate):
        return head | {"data": {"trades": fields["trades"]}}
    assert isinstance(event, CandlesUpdate)
    return head | {"interval": event.interval, "data": {"candles": fields["candles"]}}


def plain(line: list[Any]) -> list[Any]:
    """Remove the fields of a row that only the JavaScript client shows."""
    result, *rest = line
    row = result.get("data") if isinstance(result, dict) else None
    if isinstance(row, dict) and "seq" in row:
        result = result | {"data": {name: row[name] for name in ("epoch", "seq", "stale")}}
    return [json.loads(json.dumps(result)), *rest]
