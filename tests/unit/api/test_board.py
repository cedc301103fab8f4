"""The board's races, one test each; test_board_model.py has the random ones."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from aggregator.contracts.stats import TokenStats
from api.board.board import Board, ResyncQuestion
from api.board.partition import (
    ANSWER_TIMEOUT_MS,
    FIRST_BACKOFF_MS,
    LONGEST_BACKOFF_MS,
    MAX_BUFFERED,
    SETTLE_MS,
)
from tests.unit.api.samples import AS_OF, Owner, row, window

STALE_AFTER = 3_000
A, B, C = "ethereum:0xaa", "ethereum:0xbb", "cosmos:ibc/27394F"


class Node:
    """A board with a clock; the test delivers the owner's messages."""

    def __init__(self) -> None:
        self.board = Board(STALE_AFTER, jitter=lambda: 1.0)
        self.now = 1_000

    def beat(self, owner: Owner) -> None:
        self.board.heartbeat(owner.heartbeat(self.now), self.now)

    def patch(self, *patches: TokenStats) -> None:
        for each in patches:
            self.board.patch(each, self.now)

    def ask(self, after_ms: int = 0) -> list[ResyncQuestion]:
        self.now += after_ms
        return self.board.due(self.now)

    def reply(self, ask: ResyncQuestion, owner: Owner) -> None:
        for chunk in owner.answer(ask.request):
            self.board.answer(ask.request_id, chunk, self.now)

    def hydrate(self, owner: Owner) -> None:
        self.beat(owner)
        asks = [ask for ask in self.ask() if ask.partition == owner.partition]
        assert len(asks) == 1
        self.reply(asks[0], owner)

    def shown(self) -> dict[str, int]:
        return {token_id: each.seq for token_id, each in self.board.rows.items()}


@pytest.fixture
def node() -> Node:
    return Node()


def test_nothing_is_asked_before_a_heartbeat_reports_the_partitions(node: Node) -> None:
    assert node.ask() == []
    node.beat(Owner(partition=2, partitions=4))
    assert sorted(ask.partition for ask in node.ask()) == [0, 1, 2, 3]


def test_patches_before_the_state_are_buffered_and_applied_after_it(node: Node) -> None:
    owner = Owner()
    for token_id in (A, B, C):
        owner.trade(token_id)
    node.beat(owner)
    (ask,) = node.ask()
    answer = owner.answer(ask.request)
    early = [owner.trade(A), owner.trade(B)]
    node.patch(*early)
    assert node.shown() == {}
    for chunk in answer:
        node.board.answer(ask.request_id, chunk, node.now)
    assert node.shown() == {A: 4, B: 5, C: 3}
    assert node.board.status(node.now)[0].in_sync


def test_chunks_may_come_in_any_order_and_twice(node: Node) -> None:
    owner = Owner()
    for number in range(5):
        owner.trade(f"ethereum:{number}")
    node.beat(owner)
    (ask,) = node.ask()
    chunks = owner.answer(ask.request)
    assert len(chunks) == 3
    for chunk in (chunks[2], chunks[2], chunks[0]):
        node.board.answer(ask.request_id, chunk, node.now)
        assert node.shown() == {}
    node.board.answer(ask.request_id, chunks[1], node.now)
    assert len(node.shown()) == 5


def test_a_repeated_patch_changes_nothing(node: Node) -> None:
    owner = Owner()
    first, second = owner.trade(A), owner.trade(A)
    node.hydrate(owner)
    node.patch(first, second)
    assert node.shown() == {A: 2}
    assert node.ask(after_ms=SETTLE_MS + 1) == []


def test_a_hole_is_resynced_and_the_patches_after_it_are_applied(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    owner.trade(B)  # lost
    node.patch(owner.trade(A))
    assert node.shown() == {A: 1}
    (ask,) = node.ask(after_ms=200)
    assert (ask.request.epoch, ask.request.since) == (1, 1)
    answer = owner.answer(ask.request)
    node.patch(owner.trade(C))
    for chunk in answer:
        node.board.answer(ask.request_id, chunk, node.now)
    assert node.shown() == {A: 3, B: 2, C: 4}


def test_a_patch_that_was_only_late_closes_its_hole(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    late, early = owner.trade(B), owner.trade(C)
    node.patch(early, late)
    assert node.shown() == {A: 1, B: 2, C: 3}
    assert node.ask(after_ms=LONGEST_BACKOFF_MS) == []


def test_a_heartbeat_ahead_waits_for_the_patches_that_it_overtook(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    patch = owner.trade(B)
    node.beat(owner)
    assert node.ask(after_ms=SETTLE_MS - 1) == []
    node.patch(patch)
    assert node.ask(after_ms=SETTLE_MS) == []


def test_a_heartbeat_that_stays_ahead_is_a_hole(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    owner.trade(B)  # lost, and nothing follows
    node.beat(owner)
    (ask,) = node.ask(after_ms=SETTLE_MS)
    node.reply(ask, owner)
    assert node.shown() == {A: 1, B: 2}


def test_an_older_epoch_is_dropped(node: Node) -> None:
    zombie, owner = Owner(epoch=4), Owner(epoch=5)
    zombie.trade(A)
    owner.trade(A)
    node.hydrate(owner)
    node.patch(*[zombie.trade(B) for _ in range(3)])
    node.beat(zombie)
    assert node.shown() == {A: 1}
    assert node.board.status(node.now)[0].owner_epoch == 5
    assert node.ask(after_ms=LONGEST_BACKOFF_MS) == []


def test_a_zombie_is_dropped_while_its_successor_rebuilds(node: Node) -> None:
    zombie = Owner(epoch=4)
    zombie.trade(A)
    node.hydrate(zombie)
    successor = Owner(epoch=5)
    successor.state = "rebuilding"
    node.beat(successor)
    node.patch(zombie.trade(A))
    assert node.shown() == {A: 1}


def test_a_zombies_answer_does_not_count_as_its_successors(node: Node) -> None:
    zombie = Owner(epoch=4)
    zombie.trade(A)
    node.hydrate(zombie)
    successor = Owner(epoch=5, next_offset=zombie.next_offset)
    successor.trade(B)
    node.beat(successor)
    (ask,) = node.ask(after_ms=SETTLE_MS)
    node.reply(ask, zombie)
    assert node.shown() == {A: 1}
    node.reply(ask, successor)
    assert node.shown() == {B: 1}
    assert node.board.status(node.now)[0].epoch == 5


def test_a_new_epoch_needs_a_full_state(node: Node) -> None:
    old = Owner(epoch=1)
    old.trade(A)
    node.hydrate(old)
    new = Owner(epoch=2, next_offset=old.next_offset)
    node.patch(new.trade(B))
    assert node.shown() == {A: 1}
    (ask,) = node.ask(after_ms=SETTLE_MS)
    partial = [msgspec.structs.replace(each, full=False) for each in new.answer(ask.request)]
    for chunk in partial:
        node.board.answer(ask.request_id, chunk, node.now)
    assert node.shown() == {A: 1}
    (ask,) = node.ask(after_ms=LONGEST_BACKOFF_MS)
    node.reply(ask, new)
    assert node.shown() == {B: 1}


def test_a_new_epoch_that_lags_is_not_shown_until_it_has_caught_up(node: Node) -> None:
    old = Owner(epoch=1)
    for _ in range(5):
        old.trade(A)
    node.hydrate(old)
    new = Owner(epoch=2)
    new.trade(A)
    node.beat(new)
    (ask,) = node.ask(after_ms=SETTLE_MS)
    node.reply(ask, new)
    assert node.board.rows[A].epoch == 1
    assert node.ask() == [], "it asks again immediately"
    for _ in range(4):
        new.trade(A)
    (ask,) = node.ask(after_ms=LONGEST_BACKOFF_MS)
    node.reply(ask, new)
    assert (node.board.rows[A].epoch, node.board.rows[A].next_offset) == (2, 5)


def test_a_token_that_a_new_owner_does_not_have_is_removed(node: Node) -> None:
    changed: set[str] = set()
    node.board.listen(changed.add)
    old = Owner(epoch=1)
    old.trade(A)
    old.trade(B)
    node.hydrate(old)
    assert changed == {A, B}
    changed.clear()
    new = Owner(epoch=2, next_offset=old.next_offset)
    new.trade(B)
    node.beat(new)
    (ask,) = node.ask(after_ms=SETTLE_MS)
    node.reply(ask, new)
    assert node.shown() == {B: 1}
    assert changed == {A, B}
    assert node.board.get(A, node.now) is None


def test_a_rebuilding_owner_is_asked_with_backoff_and_immediately_when_live(node: Node) -> None:
    owner = Owner()
    owner.state = "rebuilding"
    node.beat(owner)
    asked_at = []
    while node.now < 30_000:
        for ask in node.ask(after_ms=50):
            asked_at.append(node.now)
            node.reply(ask, owner)
        if node.now % 1_000 == 0:
            node.beat(owner)
    pauses = [later - sooner for sooner, later in pairwise(asked_at)]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= LONGEST_BACKOFF_MS
    assert node.board.status(node.now)[0].hydrated is False
    owner.state = "live"
    owner.trade(A)
    node.beat(owner)
    (ask,) = node.ask()
    node.reply(ask, owner)
    assert node.shown() == {A: 1}


def test_a_question_without_an_owner_is_repeated_with_backoff(node: Node) -> None:
    node.beat(Owner(partition=1, partitions=2))
    first = next(ask for ask in node.ask() if ask.partition == 0)
    node.board.refused(first.request_id, node.now)
    assert [ask.partition for ask in node.ask(after_ms=50)] == []
    (again,) = [ask for ask in node.ask(after_ms=100) if ask.partition == 0]
    assert again.request_id != first.request_id


def test_an_answer_with_a_lost_chunk_is_asked_for_again(node: Node) -> None:
    owner = Owner()
    for number in range(4):
        owner.trade(f"ethereum:{number}")
    node.beat(owner)
    (ask,) = node.ask()
    first, lost = owner.answer(ask.request)
    node.board.answer(ask.request_id, first, node.now)
    assert node.ask(after_ms=ANSWER_TIMEOUT_MS - 1) == []
    node.ask(after_ms=1)
    (again,) = node.ask(after_ms=LONGEST_BACKOFF_MS)
    node.board.answer(ask.request_id, lost, node.now)
    assert node.shown() == {}, "a chunk of an answer that was given up is dropped"
    node.reply(again, owner)
    assert len(node.shown()) == 4


def test_an_answer_slower_than_the_patches_is_harmless(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    node.board.reconnected(node.now)
    (ask,) = node.ask(after_ms=200)
    answer = owner.answer(ask.request)
    node.patch(owner.trade(A))
    for chunk in answer:
        node.board.answer(ask.request_id, chunk, node.now)
    assert node.shown() == {A: 2}
    assert node.board.status(node.now)[0].in_sync


def test_after_a_reconnect_every_partition_is_asked_what_changed(node: Node) -> None:
    owners = [Owner(partition=number, partitions=2) for number in range(2)]
    for owner in owners:
        owner.trade(f"ethereum:{owner.partition}")
    node.beat(owners[0])
    for ask in node.ask():
        node.reply(ask, owners[ask.partition])
    owners[1].trade(B)  # lost while the connection was down
    node.board.reconnected(node.now)
    asks = node.ask()
    assert [(ask.partition, ask.request.since) for ask in asks] == [(0, 1), (1, 1)]
    for ask in asks:
        node.reply(ask, owners[ask.partition])
    assert node.shown() == {"ethereum:0": 1, "ethereum:1": 1, B: 2}
    assert node.ask(after_ms=1_000) == []


def test_a_heartbeat_does_not_cancel_the_question_after_a_reconnect(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    node.board.reconnected(node.now)
    node.beat(owner)
    assert len(node.ask()) == 1


def test_a_question_sent_before_the_owner_was_back_is_repeated_immediately(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    owner.trade(A)
    node.board.reconnected(node.now)
    (lost,) = node.ask()
    assert node.ask(after_ms=500) == []
    node.beat(owner)
    assert node.ask() == [], "the answer may be on its way"
    node.ask(after_ms=SETTLE_MS)
    (again,) = node.ask(after_ms=FIRST_BACKOFF_MS)
    assert again.request_id != lost.request_id
    node.beat(owner)
    assert node.ask(after_ms=SETTLE_MS + FIRST_BACKOFF_MS) == [], "once"
    node.reply(again, owner)
    assert node.shown() == {A: 2}


def test_two_owners_answering_one_question_are_not_mixed(node: Node) -> None:
    zombie, successor = Owner(epoch=4), Owner(epoch=5)
    for number in range(4):
        zombie.trade(f"ethereum:{number}")
        successor.trade(f"base:{number}")
    node.board.heartbeat(Owner(partition=1, partitions=2).heartbeat(), node.now)
    ask = next(each for each in node.ask() if each.partition == 0)
    old, new = zombie.answer(ask.request), successor.answer(ask.request)
    for chunk in (old[0], new[0], old[1], new[1]):
        node.board.answer(ask.request_id, chunk, node.now)
    assert set(node.shown()) == {f"base:{number}" for number in range(4)}


def test_buffered_patches_are_bounded_and_the_rest_is_fetched(node: Node) -> None:
    owner = Owner()
    node.beat(owner)
    (ask,) = node.ask()
    early_answer = owner.answer(ask.request)
    owner.trade(A)  # lost
    node.patch(*[owner.trade(B) for _ in range(MAX_BUFFERED + 10)])
    for chunk in early_answer:
        node.board.answer(ask.request_id, chunk, node.now)
    (ask,) = node.ask(after_ms=200)
    node.reply(ask, owner)
    assert node.shown() == {A: 1, B: owner.seq}
    assert node.board.status(node.now)[0].in_sync


def test_a_silent_owner_makes_the_partition_stale(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    node.now += STALE_AFTER
    fresh = node.board.get(A, node.now)
    assert fresh is not None and fresh.stale is False
    node.now += 1
    stale = node.board.get(A, node.now)
    assert stale is not None and stale.stale is True
    assert node.board.stale_partitions(node.now) == {0}
    assert node.board.status(node.now)[0].state == "silent"
    node.beat(owner)
    assert node.board.stale_partitions(node.now) == set()


def test_patches_without_heartbeats_do_not_keep_a_partition_fresh(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    for _ in range(40):
        node.now += 100
        node.patch(owner.trade(A))
    assert node.board.stale_partitions(node.now) == {0}


def test_a_partition_that_cannot_catch_up_is_stale_despite_heartbeats(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    owner.trade(B)  # lost, and so is every answer
    for _ in range(4):
        node.now += 1_000
        node.beat(owner)
        node.ask()
    assert node.board.stale_partitions(node.now) == {0}


def test_a_busy_partition_whose_heartbeats_overtake_its_patches_stays_fresh(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    for _ in range(10):
        node.now += 1_000
        patch = owner.trade(A)
        node.beat(owner)
        node.patch(patch)
        assert node.ask() == []
    assert node.board.stale_partitions(node.now) == set()


@pytest.mark.parametrize("state", ["rebuilding", "stalled"])
def test_an_owner_that_is_not_live_makes_its_rows_stale_immediately(node: Node, state: str) -> None:
    owner = Owner()
    owner.trade(A)
    node.hydrate(owner)
    owner.state = state
    node.beat(owner)
    assert node.board.stale_partitions(node.now) == {0}


def test_a_stalled_owners_rows_are_shown_as_stale(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    owner.state = "stalled"
    node.hydrate(owner)
    shown = node.board.get(A, node.now)
    assert shown is not None and shown.stale is True


def test_a_token_on_two_partitions_stays_with_the_first_and_is_reported(node: Node) -> None:
    first, second = (Owner(partition=number, partitions=2) for number in range(2))
    first.trade(A)
    node.beat(first)
    for ask in node.ask():
        node.reply(ask, (first, second)[ask.partition])
    node.patch(second.trade(A))
    assert node.board.rows[A].partition == 0
    assert node.board.status(node.now)[1].seq == 1
    assert node.board.degraded() == [
        f"token {A} also arrives on partition 1: a producer's key is wrong"
    ]


def test_what_owners_report_is_passed_on(node: Node) -> None:
    owner = Owner()
    owner.degraded = ["Redis evicts keys"]
    node.beat(owner)
    assert node.board.degraded() == ["partition 0: Redis evicts keys"]


def test_as_of_is_the_oldest_partitions(node: Node) -> None:
    owners = [Owner(partition=number, partitions=2) for number in range(2)]
    for _ in range(5):
        owners[0].trade(A)
    owners[1].trade(B)
    node.beat(owners[0])
    for ask in node.ask():
        node.reply(ask, owners[ask.partition])
    assert node.board.as_of() == AS_OF + 1


def test_a_token_that_its_owner_drops_is_removed(node: Node) -> None:
    changed: list[str] = []
    node.board.show(row(A, stats=window()))
    node.board.show(row(B, stats=window(buys=1)))
    node.board.listen(changed.append)
    node.board.show(msgspec.structs.replace(row(A), windows={}))
    assert set(node.board.rows) == {B}
    assert changed == [A]
    node.board.show(msgspec.structs.replace(row("c:never-shown"), windows={}))
    assert set(node.board.rows) == {B}
    assert changed == [A]


def test_an_unreadable_row_in_an_answer_leaves_the_board_as_it_is(node: Node) -> None:
    owner = Owner()
    owner.trade(A)
    node.beat(owner)
    (ask,) = node.ask()
    (chunk,) = owner.answer(ask.request)
    broken = msgspec.structs.replace(chunk, tokens=[msgspec.Raw(b'{"token_id":1}')])
    with pytest.raises(msgspec.ValidationError):
        node.board.answer(ask.request_id, broken, node.now)
    assert node.shown() == {}
    node.ask(after_ms=ANSWER_TIMEOUT_MS)
    (again,) = node.ask(after_ms=LONGEST_BACKOFF_MS)
    node.reply(again, owner)
    assert node.shown() == {A: 1}
