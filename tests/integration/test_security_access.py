"""Revocations and limits that an operator sets, at running web nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import redis
from channels_redis.pubsub import RedisPubSubChannelLayer

from aggregator.contracts.names import ACCESS_REVISION_KEY, REGISTRY_REVISION_KEY
from aggregator.runtime.errors import Retry
from api.auth.access import Access, AccessState, RevocationEntry, SubjectLimits
from api.auth.control import GROUP, NOTICE, Control
from api.auth.redis_link import RedisLink
from tests.support.processes import wait_until
from tests.support.web_nodes import Nodes

pytestmark = pytest.mark.engines

WITHIN_S = 2.0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with Nodes(tmp_path) as running:
        yield running


def jti_of(token: str) -> str:
    jti: str = jwt.decode(token, options={"verify_signature": False})["jti"]
    return jti


def revoke(kind: str, value: str) -> str:
    return (
        "from console.models.access import Revocation\n"
        f"Revocation.objects.create(kind={kind!r}, value={value!r}, reason='leaked')\n"
    )


def lift(value: str) -> str:
    return (
        "from console.models.access import Revocation\n"
        f"Revocation.objects.filter(value={value!r}).delete()\n"
    )


def test_a_revocation_reaches_every_node_and_is_lifted_again(nodes: Nodes) -> None:
    pair = [nodes.web("one"), nodes.web("two")]
    leaked, other, of_another = nodes.token("ann"), nodes.token("ann"), nodes.token("bob")
    for node in pair:
        assert [node.get(each).status_code for each in (leaked, other, of_another)] == [200] * 3

    nodes.shell(revoke("jti", jti_of(leaked)))
    wait_until(lambda: all(node.refuses(leaked) for node in pair), WITHIN_S, "the token is out")
    assert all(node.get(other).status_code == 200 for node in pair)

    nodes.shell(revoke("sub", "ann"))
    wait_until(lambda: all(node.refuses(other) for node in pair), WITHIN_S, "the subject is out")
    assert all(node.refuses(nodes.token("ann")) for node in pair), "a new token of hers too"
    assert all(node.get(of_another).status_code == 200 for node in pair)

    nodes.shell(lift("ann"))
    wait_until(
        lambda: all(node.get(other).status_code == 200 for node in pair), WITHIN_S, "ann is back"
    )
    assert all(node.refuses(leaked) for node in pair)
    late = nodes.web("late")
    wait_until(lambda: late.refuses(leaked), WITHIN_S, "a node that starts later knows it")


def test_limits_of_a_subject_change_without_a_restart(nodes: Nodes) -> None:
    node = nodes.web()
    token = nodes.token("small")
    assert node.get(token).headers["X-RateLimit-Limit"] == "200"
    nodes.shell(
        "from console.models.access import ApiSubject\n"
        "ApiSubject.objects.create(subject='small', rate_per_s=1, burst=3)\n"
    )
    wait_until(lambda: node.get(token).status_code == 429, WITHIN_S, "the smaller limit")
    nodes.shell("from console.models.access import ApiSubject\nApiSubject.objects.get().delete()\n")

    def default_again() -> bool:
        return node.get(token).headers["X-RateLimit-Limit"] == "200"

    wait_until(default_again, WITHIN_S, "the default")


def test_a_redis_that_lost_everything_gets_the_revocations_from_the_database(nodes: Nodes) -> None:
    node = nodes.web()
    token = nodes.token("ann")
    nodes.shell(revoke("sub", "ann"))
    wait_until(lambda: node.refuses(token), WITHIN_S, "ann is out")
    redis = nodes.engines.redis
    redis.kill()
    node.wait_degraded("rate limits are of this node alone")
    assert node.refuses(token), "what was taken stays in force"
    for file in (redis.data / "appendonlydir").iterdir():
        file.unlink()
    redis.start()
    wait_until(lambda: not node.degraded(), 10, "Redis is back")
    late = nodes.web("late")
    wait_until(lambda: late.refuses(token), 15, "a node that knows Redis only")


def test_a_change_while_redis_is_down_arrives_when_it_is_back(nodes: Nodes) -> None:
    """A node with a database does not wait for Redis; one without does."""
    node = nodes.web()
    other = nodes.web("no-database", DATABASE_FILE=str(nodes.directory / "empty.sqlite3"))
    token = nodes.token("ann")
    assert node.get(token).status_code == other.get(token).status_code == 200
    nodes.engines.redis.kill()
    nodes.shell(revoke("sub", "ann"))
    wait_until(lambda: node.refuses(token), 30, "ann is out by the database")
    assert other.get(token).status_code == 200
    nodes.engines.redis.start()
    wait_until(lambda: other.refuses(token), 30, "ann is out everywhere")


def test_a_node_that_starts_without_redis_takes_revocations_from_the_database(
    nodes: Nodes,
) -> None:
    nodes.shell(revoke("sub", "ann"))
    nodes.engines.redis.kill()
    node = nodes.web(redis=False)
    answers = {node.get(nodes.token("ann")).status_code for _ in range(20)}
    assert answers == {401}
    assert node.refuses(nodes.token("ann"))
    assert node.get(nodes.token("bob")).status_code == 200


def test_a_node_that_knows_no_decisions_lets_nobody_in(nodes: Nodes) -> None:
    """A node without a database that starts while Redis is down."""
    nodes.shell(revoke("sub", "ann"))
    nodes.engines.redis.kill()
    node = nodes.web(redis=False, DATABASE_FILE=str(nodes.directory / "empty.sqlite3"))
    for subject in ("ann", "bob"):
        answer = node.get(nodes.token(subject))
        assert (answer.status_code, answer.json()["code"]) == (503, "auth_unavailable")
        assert answer.headers["Retry-After"]
    assert any("revocations" in each for each in node.reasons())
    nodes.engines.redis.start()
    wait_until(lambda: node.refuses(nodes.token("ann")), 30, "the state from Redis")
    assert node.get(nodes.token("bob")).status_code == 200
    assert not any("revocations" in each for each in node.reasons())


@pytest.mark.parametrize(
    "written",
    [b"garbage", b"-1", b"\xff\xfe", b"1" * 5_000],
    ids=["text", "negative", "bytes", "5,000 digits"],
)
def test_a_garbled_revision_is_replaced(nodes: Nodes, written: bytes) -> None:
    """The node reports it, keeps the last state, and follows again when it is overwritten."""
    node = nodes.web()
    with redis.Redis.from_url(nodes.engines.redis.url) as client:
        keys = (ACCESS_REVISION_KEY, REGISTRY_REVISION_KEY)
        client.mset(dict.fromkeys(keys, written))
        node.wait_degraded("the token registry is not followed", 20)
        token = nodes.token("ann")
        assert node.get(token).status_code == 200
        nodes.shell(revoke("sub", "ann"))
        wait_until(lambda: node.refuses(token), 30, "a revocation that came later")
        client.delete(REGISTRY_REVISION_KEY)
    wait_until(lambda: not any("followed" in each for each in node.degraded()), 20, "no fault")


def test_an_empty_database_lifts_no_revocation(nodes: Nodes) -> None:
    node = nodes.web()
    token = nodes.token("ann")
    nodes.shell(revoke("sub", "ann"))
    wait_until(lambda: node.refuses(token), WITHIN_S, "ann is out")
    empty = nodes.web("empty", DATABASE_FILE=str(nodes.directory / "empty.sqlite3"))
    wait_until(lambda: empty.refuses(token), WITHIN_S, "the state comes from Redis")
    empty.wait_degraded("manage.py migrate")
    assert node.refuses(token)


def test_no_token_is_in_any_log(nodes: Nodes) -> None:
    node = nodes.web(LOG_LEVEL="debug")
    good = nodes.token("ann")
    bad = f"{good[:-4]}AAAA"
    assert node.get(good).status_code == 200
    assert node.get(bad).status_code == 401
    assert node.get(None, f"/api/status?token={good}").status_code == 401, "never in a URL"
    assert node.get(None, f"/api/status?access_token={good}").status_code == 401
    log = node.process.log.read_text()
    for part in good.split("."):
        assert part not in log.replace(f"token={good}", "")


class Recorded:
    """Sockets that record the calls."""

    def __init__(self) -> None:
        self.closed: list[tuple[str | None, str | None, int, str]] = []
        self.notices: list[str] = []

    def close_where(
        self, *, jti: str | None = None, sub: str | None = None, code: int, reason: str
    ) -> int:
        self.closed.append((jti, sub, code, reason))
        return 1

    def notice(self, text: str) -> None:
        self.notices.append(text)


async def no_database() -> AccessState:
    raise Retry("there is no database")


async def until(holds: Any, within_s: float = WITHIN_S) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.01)


async def test_control_messages_reach_the_sockets_of_a_process(nodes: Nodes) -> None:
    url = nodes.engines.redis.url
    layer = RedisPubSubChannelLayer(hosts=[url], prefix="control:")
    link, access, sockets = RedisLink(url), Access(SubjectLimits(1, 1)), Recorded()
    compared = 0

    async def compare() -> None:
        nonlocal compared
        compared += 1

    control = Control(access, link, lambda: layer, compare, no_database)
    control.serve(sockets)
    link.start()
    control.start()
    try:
        await until(lambda: access.revision == 0 and not control.faults and compared)

        async def received() -> bool:
            await layer.group_send(GROUP, {"type": NOTICE, "text": "maintenance at noon"})
            return bool(sockets.notices)

        async with asyncio.timeout(WITHIN_S):
            while not await received():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        for broken in ({"type": "nonsense"}, {"type": NOTICE, "text": 1}, {"text": "x"}):
            await layer.group_send(GROUP, broken)
        begun = time.monotonic()
        await asyncio.to_thread(nodes.shell, revoke("jti", "j-1"))
        saved = time.monotonic()
        await until(lambda: len(sockets.closed) == 1, within_s=saved - begun + WITHIN_S)
        assert sockets.closed[0] == ("j-1", None, 4003, "the token is revoked")
        assert access.revision == int(await link.call("GET", ACCESS_REVISION_KEY))
    finally:
        await control.stop()
        await link.stop()
        await layer.flush()


async def test_a_message_that_is_lost_costs_a_second(nodes: Nodes) -> None:
    """Without the channel layer, polling the revision alone brings the change."""
    url = nodes.engines.redis.url
    elsewhere = RedisPubSubChannelLayer(hosts=[url], prefix="another:")
    link, access, sockets = RedisLink(url), Access(SubjectLimits(1, 1)), Recorded()

    async def compare() -> None:
        pass

    control = Control(access, link, lambda: elsewhere, compare, no_database)
    control.serve(sockets)
    link.start()
    control.start()
    try:
        await asyncio.to_thread(nodes.shell, revoke("sub", "ann"))
        await until(lambda: len(sockets.closed) == 1)
        assert sockets.closed == [(None, "ann", 4003, "the subject is revoked")]
    finally:
        await control.stop()
        await link.stop()
        await elsewhere.flush()


def test_a_revocation_that_ran_out_and_is_extended_closes_sockets() -> None:
    now_s, announced = 1_000.0, list[RevocationEntry]()
    access = Access(SubjectLimits(1, 1), lambda: now_s)
    access.listen(announced.append)
    short, long = (
        RevocationEntry("sub", "ann", until=1_006),
        RevocationEntry("sub", "ann", until=None),
    )
    access.take(AccessState(1, [short], {}))
    assert announced == [short]
    now_s = 1_010.0
    access.take(AccessState(2, [short, RevocationEntry("jti", "over", until=1_009)], {}))
    assert announced == [short], "what is not in force closes nothing"
    access.take(AccessState(3, [long], {}))
    assert announced == [short, long]


def test_each_revocation_is_announced_once() -> None:
    access, announced = Access(SubjectLimits(1, 1)), list[RevocationEntry]()
    access.listen(announced.append)
    ann, token = RevocationEntry("sub", "ann"), RevocationEntry("jti", "j")
    access.take(AccessState(1, [ann], {}))
    access.take(AccessState(2, [ann, token], {}))
    access.take(AccessState(3, [token], {}))
    access.take(AccessState(4, [ann, token], {}))
    assert announced == [ann, token, ann]


def test_an_older_state_never_takes_the_place_of_a_newer_one(nodes: Nodes) -> None:
    nodes.shell(revoke("sub", "ann"))
    before = nodes.shell(
        "import redis; from django.conf import settings\n"
        "print(int(redis.Redis.from_url(settings.SWAPS.redis_url).get('auth:revision')))\n"
    )
    nodes.shell(
        "from console.models.access import AccessRevision, Revocation\n"
        "Revocation.objects.all().delete()\n"
        "AccessRevision.objects.update(revision=5)\n"
        "from console.publish_access import publish\n"
        "assert publish() is False\n"
    )
    after = nodes.shell(
        "import redis; from django.conf import settings\n"
        "print(int(redis.Redis.from_url(settings.SWAPS.redis_url).get('auth:revision')))\n"
    )
    assert int(after) > int(before) > 5, "only the deletion, which was newer, was published"
