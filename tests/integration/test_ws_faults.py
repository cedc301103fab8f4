"""500 clients on two web nodes while an aggregator, NATS or a node is killed under a random stream.

One service and one crowd serve the whole file. Each test breaks something, repairs it, and ends
with `settle`, which compares every client, both nodes' REST and the truth of the log.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest

from infra.embedded.stack import Stack
from tests.support.crowd import Crowd, Member
from tests.support.two_of_each import PARTITIONS, TOKENS, TwoOfEach
from tests.support.ws_wire import Wire, connect

pytestmark = [pytest.mark.engines, pytest.mark.timeout(180)]

RAW, READERS = 450, 50
SUBJECT_SIZE = 5
STALE_WITHIN_S, FRESH_WITHIN_S, CLOSED_WITHIN_S = 3.0, 2.0, 2.0
# A busy machine may be late by this much; a fault is late indefinitely.
SLACK_S = 3.0
STORM, STORM_S = 2_000, 10.0


@pytest.fixture(scope="module")
def site(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoOfEach]:
    with TwoOfEach(tmp_path_factory.mktemp("faults"), stack) as running:
        yield running


@pytest.fixture(scope="module")
def crowd(site: TwoOfEach) -> Iterator[Crowd]:
    """Put half of the raw clients on each node, and the Python clients on the balancer."""
    rng = random.Random(1)
    with Crowd(site.service.env["NATS_URL"], site.ports) as running:
        token = ""
        for number in range(RAW + READERS):
            if number % SUBJECT_SIZE == 0:
                token = site.token(f"client-{number}")
            tokens = rng.sample(TOKENS, 5)
            if number < RAW:
                ports = site.ports if number % 2 else site.ports[::-1]
                member = Member(ports, token, tokens, tokens[:2])
                running.look(lambda member=member: running.enter(member))
            else:
                running.join_reader(token, tokens, tokens[:2])
        site.wait(lambda: running.look(lambda: all_fresh(running)), "everybody connected")
        yield running


def all_fresh(crowd: Crowd) -> bool:
    return all(each.stale is False for each in crowd.everybody())


def all_stale(crowd: Crowd) -> bool:
    return all(each.stale for each in crowd.everybody())


def latest(crowd: Crowd) -> float:
    """Return when the last client learned that numbers are stale, or fresh."""
    return crowd.look(lambda: max(each.stale_since for each in crowd.everybody()))


def became(
    site: TwoOfEach, crowd: Crowd, state: Callable[[Crowd], bool], since: float, within_s: float
) -> float:
    """Stream until every client is in the state; return how many seconds the last one took."""
    site.stream_until(lambda: crowd.look(lambda: state(crowd)), within_s + 30, state.__name__)
    took = latest(crowd) - since
    assert took < within_s + SLACK_S, f"{state.__name__}: {took:.1f} s"
    return took


def test_all_clients_and_both_nodes_agree_with_the_log(site: TwoOfEach, crowd: Crowd) -> None:
    bursts = iter(range(20))
    site.stream_until(lambda: next(bursts, None) is None, 60, "the stream")
    findings = site.settle(crowd)
    assert findings.checked == len(TOKENS)
    assert {member.port for member in crowd.members} == set(site.ports)


def test_kill_of_an_aggregator(site: TwoOfEach, crowd: Crowd) -> None:
    victim = site.aggregators.pop(0)
    owned = [p for p, (_, beat) in crowd.beats.items() if beat.owner.endswith(str(victim.pid))]
    assert 0 < len(owned) < PARTITIONS
    welcomes = crowd.look(lambda: sum(member.client.welcomes for member in crowd.members))
    epochs = {p: crowd.beats[p][1].epoch for p in owned}
    victim.kill()
    killed = time.monotonic()
    stale_s = became(site, crowd, all_stale, killed, STALE_WITHIN_S)

    def taken_over() -> bool:
        now = [(crowd.beats[p][1], epochs[p]) for p in owned]
        return all(beat.epoch > epoch and beat.state == "live" for beat, epoch in now)

    site.stream_until(lambda: crowd.look(taken_over), 40, "the other aggregator takes over")
    back = crowd.look(lambda: max(crowd.beats[p][0] for p in owned))
    fresh_s = became(site, crowd, all_fresh, back, FRESH_WITHIN_S)
    over_s = back - killed
    print(f"aggregator: stale {stale_s:.2f} s, taken over {over_s:.2f} s, fresh {fresh_s:.2f} s")
    site.start_aggregator()
    site.settle(crowd)
    again = crowd.look(lambda: sum(member.client.welcomes for member in crowd.members))
    assert again == welcomes, "no reconnect is needed"


def all_rows_stale(crowd: Crowd) -> bool:
    return all(member.client.all_rows(stale=True) for member in crowd.members)


def test_kill_of_nats(site: TwoOfEach, crowd: Crowd) -> None:
    site.nats.kill()
    killed = time.monotonic()
    stale_s = became(site, crowd, all_stale, killed, STALE_WITHIN_S)
    site.stream_until(lambda: crowd.look(lambda: all_rows_stale(crowd)), 40, "rows marked stale")
    rows_s = time.monotonic() - killed
    assert rows_s < STALE_WITHIN_S + SLACK_S
    assert latest(crowd) - killed == stale_s, "no client was informed meanwhile that all is fresh"
    site.nats.start()
    fresh_s = became(site, crowd, all_fresh, time.monotonic(), FRESH_WITHIN_S)
    print(f"NATS: stale {stale_s:.2f} s, every row {rows_s:.2f} s, fresh {fresh_s:.2f} s")
    site.settle(crowd)


def test_kill_of_a_web_node_and_then_of_the_other(site: TwoOfEach, crowd: Crowd) -> None:
    """The second time, the clients reconnect to a node that has just started and is empty."""
    first, second = site.ports
    site.nodes[first].kill()
    took = moved(site, crowd, second)
    site.nodes[second].kill()
    site.start_node(first)
    again = moved(site, crowd, first)
    print(f"node: all over in {took:.2f} s; to a node that starts, in {again:.2f} s")
    site.start_node(second)
    site.settle(crowd)


def moved(site: TwoOfEach, crowd: Crowd, port: int) -> float:
    """Stream until all raw clients are on this node and fresh; return the seconds it took."""
    begun = time.monotonic()

    def over() -> bool:
        return all(each.port == port for each in crowd.members) and all_fresh(crowd)

    site.stream_until(lambda: crowd.look(over), 40, "all clients on the other node")
    return time.monotonic() - begun


def test_a_node_that_hangs_is_left(site: TwoOfEach, crowd: Crowd) -> None:
    """SIGSTOP leaves sockets open without any message."""
    port = crowd.look(lambda: crowd.members[0].port)
    (other,) = {*site.ports} - {port}
    os.kill(site.nodes[port].pid, signal.SIGSTOP)
    crowd.balancer.ports = [other]
    try:
        took = moved(site, crowd, other)
    finally:
        os.kill(site.nodes[port].pid, signal.SIGCONT)
        crowd.balancer.ports = list(site.ports)
    print(f"hanging node: all over in {took:.2f} s")
    site.settle(crowd)


def test_a_node_that_stops_sends_its_clients_away(site: TwoOfEach, crowd: Crowd) -> None:
    port = crowd.look(lambda: crowd.members[0].port)
    leaving = crowd.look(lambda: [each for each in crowd.members if each.port == port])
    before = {id(each): len(each.codes) for each in leaving}
    site.nodes[port].terminate()

    def over() -> bool:
        return all(len(each.codes) > before[id(each)] for each in leaving) and all_fresh(crowd)

    site.stream_until(lambda: crowd.look(over), 40, "all clients on the other node")
    assert site.nodes[port].wait(10) == 0
    assert {each.codes[before[id(each)]] for each in leaving} == {1012}
    site.start_node(port)
    site.settle(crowd)


def test_tokens_that_end_close_open_sockets(site: TwoOfEach, crowd: Crowd) -> None:
    """Revoke by `jti` and by `sub`, and let a token expire, on both nodes."""
    leaked, hers, short = site.token("ann"), site.token("ann"), site.token("bob", ttl_ms=5_000)
    calm = site.token("calm")
    ends: dict[str, list[tuple[float, int | None]]] = {}
    wires: list[Wire] = []

    async def enter(token: str) -> None:
        ends[token] = []
        for port in site.ports:
            wire = await connect(port, token, lambda _: None)
            wires.append(wire)
            wire.closed.add_done_callback(
                lambda closed: ends[token].append((time.time(), closed.result()))
            )

    def revoke(kind: str, value: str) -> float:
        made = f"Revocation.objects.create(kind={kind!r}, value={value!r}, reason='test')"
        code = f"from console.models.access import Revocation; {made}"
        done = site.service.manage("shell", "-v", "0", "-c", code)
        assert done.returncode == 0, done.stderr
        return time.time()

    def closed_in(token: str, since: float) -> float:
        site.wait(lambda: len(ends[token]) == len(site.ports), "both sockets closed", 20)
        assert [code for _, code in ends[token]] == [4003, 4003]
        took = max(at for at, _ in ends[token]) - since
        assert took < CLOSED_WITHIN_S + SLACK_S
        return max(0.0, took)

    for token in (leaked, hers, short, calm):
        crowd.call(enter(token))
    by_jti_s = closed_in(leaked, revoke("jti", claims(leaked)["jti"]))
    assert ends[hers] == []
    by_sub_s = closed_in(hers, revoke("sub", "ann"))
    expired_s = closed_in(short, claims(short)["exp"])
    assert ends[calm] == []
    crowd.look(lambda: [wire.abort() for wire in wires])
    print(f"closed: jti {by_jti_s:.2f} s, sub {by_sub_s:.2f} s, expired {expired_s:.2f} s")


def claims(token: str) -> dict[str, Any]:
    read: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return read


def test_a_storm_of_reconnects(site: TwoOfEach, crowd: Crowd) -> None:
    port = site.ports[0]
    rng = random.Random(2)
    subjects = [site.token(f"storm-{number}") for number in range(STORM // 10)]
    with Crowd(site.service.env["NATS_URL"], [port]) as storm:

        async def arrive() -> None:
            begun = time.monotonic()
            for number in range(STORM):
                member = Member([port], subjects[number % len(subjects)], rng.sample(TOKENS, 5), [])
                storm.enter(member)
                await asyncio.sleep(max(0, begun + STORM_S * number / STORM - time.monotonic()))

        begun = time.monotonic()
        storm.begin(arrive())
        rest, health = [], []

        def served() -> bool:
            rest.append(timed(lambda: site.get(port, "/api/tokens/stats", ids=",".join(TOKENS))))
            health.append(timed(lambda: site.get(port, "/healthz")))
            return storm.look(
                lambda: (
                    len(storm.members) == STORM
                    and all(len(member.client.rows) == 5 for member in storm.members)
                )
            )

        site.stream_until(served, STORM_S + 30, "a snapshot for everybody")
        print(
            f"storm: all served in {time.monotonic() - begun:.2f} s, REST p99 {p99(rest):.3f} s, "
            f"/healthz worst {max(health):.3f} s"
        )
        assert storm.look(lambda: [code for member in storm.members for code in member.codes]) == []
        site.settle(storm)
    site.settle(crowd)


def timed(ask: Callable[[], httpx.Response]) -> float:
    """Return how many seconds a good answer took."""
    begun = time.monotonic()
    assert ask().status_code == 200
    return time.monotonic() - begun


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]
