"""A node that starts while a partition has no owner shows its rows of Redis until one reports."""

from __future__ import annotations

from aggregator.contracts.stats import TokenStats
from api.board.partition import SavedRows
from tests.unit.api.samples import Owner, row
from tests.unit.api.test_board import Node

A, B = "ethereum:0xaa", "ethereum:0xbb"


def left_by(owner: Owner, *rows: TokenStats) -> SavedRows:
    return SavedRows(
        partition=owner.partition,
        partitions=owner.partitions,
        epoch=owner.epoch,
        seq=owner.seq,
        next_offset=owner.next_offset,
        rows=list(rows),
    )


def test_saved_rows_are_shown_as_stale_and_make_the_partitions_known() -> None:
    node, owner = Node(), Owner(partitions=2)
    node.board.saved(left_by(owner, owner.trade(A)))
    shown = node.board.get(A, node.now)
    assert shown is not None
    assert shown.stale
    assert node.board.without_state() == [1]
    assert node.board.stale_partitions(node.now) == {0, 1}
    assert not node.board.status(node.now)[0].in_sync


def test_the_next_owner_takes_over_once_it_has_caught_up() -> None:
    node, owner = Node(), Owner()
    node.board.saved(left_by(owner, owner.trade(A), owner.trade(B)))
    lagging = Owner(epoch=2, next_offset=0)
    lagging.trade(B)
    node.beat(lagging)
    (ask,) = node.ask()
    node.reply(ask, lagging)
    assert node.shown() == {A: 1, B: 2}
    lagging.trade(B)
    (ask,) = node.ask(after_ms=1_000)
    node.reply(ask, lagging)
    assert node.shown() == {B: 2}
    assert not node.board.rows[B].stale
    assert node.board.status(node.now)[0].in_sync


def test_an_owner_that_was_there_all_along_is_asked_for_everything() -> None:
    node, owner = Node(), Owner()
    first, newer = owner.trade(A), owner.trade(B)
    saved = left_by(owner, newer)  # a save is in progress: A is not in it yet
    node.board.saved(saved)
    owner.trade(B)
    node.beat(owner)
    (ask,) = node.ask(after_ms=1_000)
    assert ask.request.since == 0
    node.reply(ask, owner)
    assert node.shown() == {A: first.seq, B: 3}
    assert node.board.stale_partitions(node.now) == set()


def test_saved_rows_never_replace_what_an_owner_gave() -> None:
    node, owner = Node(), Owner()
    owner.trade(A)
    node.hydrate(owner)
    node.board.saved(left_by(Owner(epoch=9), row(B, epoch=9)))
    assert node.shown() == {A: 1}
    assert node.board.stale_partitions(node.now) == set()


def test_while_the_next_owner_rebuilds_the_saved_rows_are_better_than_none() -> None:
    node, owner, rebuilding = Node(), Owner(), Owner(epoch=2)
    rebuilding.state = "rebuilding"
    node.beat(rebuilding)
    node.board.saved(left_by(owner, owner.trade(A)))
    assert node.shown() == {A: 1}
    assert node.board.stale_partitions(node.now) == {0}
