"""What owners leave of their rows in Redis is what web nodes read there, by owners in turn."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

import msgspec
import pytest
import redis
import redis.asyncio

from aggregator.contracts.names import board_keys
from aggregator.contracts.stats import TokenStats
from aggregator.counting.board_cache import BoardCache, PublishedRows
from aggregator.nats.resync import Patch
from aggregator.redis.board_rows import RedisBoardRows, RowsLost
from aggregator.runtime.errors import Fenced
from api.board.board import Board
from api.board.partition import SavedRows
from api.board.saved import SavedRowsReader, read_saved
from infra.embedded.stack import Stack
from tests.unit.api.samples import row


class Rows:
    """A topic of its own, an owner's store and a reader."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.topic = f"swaps-{secrets.token_hex(6)}"
        self.store = RedisBoardRows(url, self.topic)

    def save(
        self, *rows: TokenStats, epoch: int, since: int | None, seq: int, gone: Sequence[str] = ()
    ) -> None:
        self.store.save(
            2,
            epoch=epoch,
            since=since,
            seq=seq,
            next_offset=10 * seq,
            partitions=3,
            changed={each.token_id: msgspec.json.encode(each) for each in rows},
            gone=gone,
        )

    async def read(self) -> SavedRows | None:
        async with redis.asyncio.Redis.from_url(self.url) as client:
            return await read_saved(client, self.topic, 2)

    async def seqs(self) -> dict[str, int]:
        saved = await self.read()
        return {} if saved is None else {each.token_id: each.seq for each in saved.rows}


@pytest.fixture
def rows(stack: Stack) -> Iterator[Rows]:
    made = Rows(stack.redis.url)
    yield made
    made.store.close()


def token(number: int, *, epoch: int = 1, seq: int = 1) -> TokenStats:
    return row(f"c:{number}", partition=2, epoch=epoch, seq=seq, next_offset=seq)


async def test_what_changed_is_added_to_what_was_saved(rows: Rows) -> None:
    assert await rows.read() is None
    rows.save(token(1), token(2), token(3), epoch=1, since=None, seq=1)
    rows.save(token(2, seq=2), epoch=1, since=1, seq=3, gone=["c:3"])
    saved = await rows.read()
    assert saved is not None
    assert (saved.partition, saved.partitions, saved.epoch) == (2, 3, 1)
    assert (saved.seq, saved.next_offset) == (3, 30)
    assert await rows.seqs() == {"c:1": 1, "c:2": 2}


async def test_many_rows_are_saved_in_pieces(rows: Rows) -> None:
    many = [token(number) for number in range(1_500)]
    assert sum(len(msgspec.json.encode(each)) for each in many) > 2 * 2**20
    rows.save(*many, epoch=1, since=None, seq=1)
    assert len(await rows.seqs()) == 1_500


async def test_a_new_owner_replaces_the_rows_and_the_old_one_is_refused(rows: Rows) -> None:
    rows.save(token(1), token(2), epoch=1, since=None, seq=1)
    rows.save(token(1, epoch=2), epoch=2, since=None, seq=1)
    with pytest.raises(Fenced):
        rows.save(token(2, seq=2), epoch=1, since=1, seq=2)
    assert await rows.seqs() == {"c:1": 1}


async def test_lost_rows_are_noticed(rows: Rows) -> None:
    rows.save(token(1), epoch=1, since=None, seq=1)
    with redis.Redis.from_url(rows.url) as admin:
        admin.delete(*board_keys(rows.topic, 2))
    with pytest.raises(RowsLost):
        rows.save(token(2, seq=2), epoch=1, since=1, seq=2)
    assert await rows.read() is None


def published(*patches: TokenStats, epoch: int, seq: int, whole: bool = False) -> PublishedRows:
    return PublishedRows(
        partition=2,
        partitions=3,
        epoch=epoch,
        seq=seq,
        next_offset=seq,
        rows=[
            Patch(each.token_id, each.seq, msgspec.json.encode(each), last=not each.windows)
            for each in patches
        ],
        whole=whole,
    )


async def test_an_owner_that_leaves_has_saved_all_that_it_published(rows: Rows) -> None:
    saver = BoardCache(RedisBoardRows(rows.url, rows.topic))
    saver.start()
    first = (token(1, epoch=4), token(2, epoch=4))
    saver.note(published(*first, epoch=4, seq=1, whole=True))
    gone = msgspec.structs.replace(token(2, epoch=4, seq=3), windows={})
    saver.note(published(token(1, epoch=4, seq=2), gone, epoch=4, seq=3))
    saver.drop(2)
    saver.stop()
    saved = await rows.read()
    assert saved is not None
    assert (saved.epoch, saved.seq) == (4, 3)
    assert await rows.seqs() == {"c:1": 2}


def test_rows_that_redis_lost_are_saved_whole_again(rows: Rows) -> None:
    saver = BoardCache(rows.store)
    saver.note(published(token(1), token(2), epoch=1, seq=1, whole=True))
    saver.save()
    with redis.Redis.from_url(rows.url) as admin:
        admin.delete(*board_keys(rows.topic, 2))
        saver.note(published(token(1, seq=2), epoch=1, seq=2))
        saver.save()
        saver.save()
        assert set(admin.hkeys(board_keys(rows.topic, 2).rows)) == {b"c:1", b"c:2"}


async def test_a_web_node_without_owners_shows_what_they_left(rows: Rows) -> None:
    rows.save(token(1), token(2), epoch=1, since=None, seq=1)
    board = Board(stale_after_ms=3_000)
    reader = SavedRowsReader(board, rows.url, rows.topic, partitions=3)
    await reader.fill()
    assert set(board.rows) == {"c:1", "c:2"}
    assert board.stale_partitions(0) == {0, 1, 2}
    assert board.without_state() == [0, 1]
