"""Numbers that waited in a queue are stale, whichever queue it was, and fresh again after it."""

from __future__ import annotations

from collections import deque

import pytest

from aggregator.contracts.stats import Heartbeat
from api.board.board import Board
from api.board.lateness import CLOCKS_AGREE_MS, LEARNED_OVER_MS, Lateness
from tests.unit.api.rest_site import Site, body, filled
from tests.unit.api.samples import AS_OF, Owner

STALE_AFTER = 3_000
SECOND = 1_000


class Route:
    """An owner that makes a heartbeat a second, a queue on the way, and a node.

    `skew` is how far the owner's time of day is ahead of the node's.
    """

    def __init__(self, skew: int = 0, *, time_of_day: bool = True) -> None:
        self.board = Board(STALE_AFTER, jitter=lambda: 1.0)
        self.owner = Owner()
        self.now = 500_000
        self.skew = skew
        self.delay = 0
        self._time_of_day = time_of_day
        self._queue: deque[tuple[int, Heartbeat]] = deque()
        self.owner.trade()

    def wall(self) -> int:
        return AS_OF + self.now

    def second(self) -> None:
        """Make a heartbeat, and deliver in order what has waited long enough."""
        self.now += SECOND
        self._queue.append((self.now, self.owner.heartbeat(self.now + self.skew)))
        self.deliver()

    def deliver(self) -> None:
        while self._queue and self._queue[0][0] <= self.now - self.delay:
            wall = self.wall() if self._time_of_day else None
            self.board.heartbeat(self._queue.popleft()[1], self.now, wall)
        for ask in self.board.due(self.now):
            for chunk in self.owner.answer(ask.request):
                self.board.answer(ask.request_id, chunk, self.now)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.second()

    @property
    def stale(self) -> bool:
        return self.board.stale_partitions(self.now) == {0}

    @property
    def state(self) -> str:
        return self.board.status(self.now)[0].state


@pytest.mark.parametrize("skew", [0, -9_000, 3_600_000])
def test_a_queue_that_builds_up_makes_the_numbers_stale(skew: int) -> None:
    """It grows by half a second per second, so heartbeats arrive every 2 s: that is not silence."""
    route = Route(skew)
    route.run(10)
    assert not route.stale
    for _ in range(8):
        route.delay += SECOND // 2
        route.second()
    assert route.state == "late"
    assert route.stale
    age = route.board.status(route.now)[0].age_ms
    assert age is not None and age >= 4_000
    route.delay = 0
    route.second()
    assert not route.stale
    assert route.state == "live"


def test_a_constant_wait_stays_stale() -> None:
    route = Route()
    route.run(10)
    for _ in range(10):
        route.delay += SECOND // 2
        route.second()
    route.run(120)
    assert route.stale
    assert route.board.late_ms() == 5_000


def test_numbers_that_waited_for_a_blocked_loop_are_stale() -> None:
    """The node's own loop reads nothing for five seconds, then everything at one instant."""
    route = Route()
    route.run(10)
    route.delay = 10**9
    route.run(5)
    route.delay = 3_500
    route.deliver()
    # A request that is answered between the first heartbeat of the backlog and the last.
    assert route.stale
    route.delay = 0
    route.deliver()
    assert not route.stale


def test_an_answer_that_waited_does_not_make_the_numbers_fresh() -> None:
    route = Route()
    route.run(10)
    for _ in range(10):
        route.delay += SECOND // 2
        route.second()
    route.owner.trade()
    route.board.reconnected(route.now)
    route.run(2)
    assert route.board.status(route.now)[0].in_sync
    assert route.stale


def test_a_node_that_starts_during_a_backlog_uses_the_time_of_day() -> None:
    route = Route()
    route.delay = 44_000
    route.run(60)
    assert route.state == "late"
    route.delay = 0
    route.second()
    assert not route.stale


def test_a_backlog_from_before_the_start_is_noticed_late_where_it_is_short() -> None:
    """Covers what the docstring of `Lateness` lists as not detected."""
    route = Route()
    route.delay = CLOCKS_AGREE_MS
    route.run(20)
    assert not route.stale
    route.delay += STALE_AFTER + SECOND
    route.run(10)
    assert route.stale


@pytest.mark.parametrize("skew", [-CLOCKS_AGREE_MS, CLOCKS_AGREE_MS, 3_600_000])
def test_clocks_that_differ_make_nothing_stale(skew: int) -> None:
    route = Route(skew)
    for _ in range(30):
        route.second()
        assert not route.stale
    assert route.board.late_ms() == 0


def test_windows_that_end_by_a_clock_that_lags_are_old() -> None:
    route = Route(-90_000)
    route.run(10)
    assert route.stale
    assert route.state == "late"


def test_an_owners_clock_that_is_set_back_is_learned_again() -> None:
    route = Route()
    route.run(10)
    route.skew = -5_000
    route.run(10)
    assert route.stale
    route.run(LEARNED_OVER_MS // SECOND)
    assert not route.stale


def test_a_new_owner_has_a_clock_of_its_own() -> None:
    route = Route()
    route.run(10)
    route.owner = Owner(epoch=2, next_offset=1)
    route.owner.trade()
    route.skew = -8_000
    route.run(2)
    assert not route.stale


def test_it_remembers_a_bounded_number_of_heartbeats() -> None:
    lateness = Lateness()
    for second in range(2_000):
        # Each is a little later than the one before, so each may become the least delay.
        lateness.observe(AS_OF + second * 1_000, second * 1_001, None)
    assert len(lateness._least) <= LEARNED_OVER_MS // SECOND + 1


async def test_late_numbers_are_stale_on_rest_and_not_ready(site: Site) -> None:
    owners = filled(site)
    for second in range(1, 6):
        site.now_ms += 1_000
        for owner in owners:
            # Made when the last ones were: by now they have waited as long as the node has run.
            site.board.heartbeat(owner.heartbeat(owner.seq + second), site.now_ms)
    overview = body(await site.get("/api/overview"))
    assert overview["stale"] is True
    assert all(each["stale"] for each in overview["tokens"])
    token = body(await site.get("/api/tokens/ethereum:0xbb/stats"))
    assert token["stale"] is True, token
    first = body(await site.get("/api/status"))["partitions"][0]
    assert (first["state"], first["stale"], first["late_ms"]) == ("late", True, 4_995)
    assert first["age_ms"] == 4_995
    ready = await site.get("/readyz")
    assert ready.status_code == 503
    assert any("5.0 s old when they arrive" in reason for reason in body(ready)["reasons"])
    site.now_ms += 1_000
    site.hydrate(*owners)
    assert body(await site.get("/api/overview"))["stale"] is False


async def test_a_web_nodes_clock_that_is_set_is_named(site: Site) -> None:
    wall = 1_700_000_000.0
    clock = site.parts.feed.clock
    clock._wall_ms = lambda: round(wall * 1000)
    assert not any("clock" in each for each in body(await site.get("/readyz"))["degraded"])
    wall += 3_600
    clock.now_ms()
    assert any("3600 s ahead" in each for each in body(await site.get("/readyz"))["degraded"])
