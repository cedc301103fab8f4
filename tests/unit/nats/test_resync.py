"""The answers of an owner to resyncs of web nodes, made from what it has published."""

from __future__ import annotations

import msgspec

from aggregator.contracts.stats import ResyncChunk, ResyncRequest
from aggregator.nats.resync import CHUNK_BYTES, Patch, PublishedPartition


def patch(token_id: str, seq: int, *, last: bool = False, size: int = 0) -> Patch:
    payload = msgspec.json.encode({"token_id": token_id, "seq": seq, "pad": "x" * size})
    return Patch(token_id, seq, payload, last)


def live(epoch: int = 3) -> PublishedPartition:
    published = PublishedPartition(0, epoch)
    published.state = "live"
    return published


def answer(published: PublishedPartition, epoch: int, since: int) -> list[ResyncChunk]:
    return [
        msgspec.json.decode(chunk, type=ResyncChunk)
        for chunk in published.answer(ResyncRequest(epoch, since))
    ]


def rows(chunks: list[ResyncChunk]) -> dict[str, int]:
    decoded = [msgspec.json.decode(row) for chunk in chunks for row in chunk.tokens]
    return {row["token_id"]: row["seq"] for row in decoded}


def test_since_0_returns_all_rows_and_since_seq_the_newer_ones() -> None:
    published = live()
    published.apply([patch("a", 1), patch("b", 1)], 1, 10)
    published.apply([patch("a", 2), patch("c", 3)], 3, 20)
    (full,) = answer(published, 0, 0)
    assert (full.full, full.epoch, full.seq, full.next_offset) == (True, 3, 3, 20)
    assert rows([full]) == {"a": 2, "b": 1, "c": 3}
    (part,) = answer(published, 3, 1)
    assert not part.full
    assert rows([part]) == {"a": 2, "c": 3}
    assert rows(answer(published, 3, 3)) == {}


def test_another_epoch_or_a_seq_from_the_future_is_answered_in_full() -> None:
    published = live()
    published.apply([patch("a", 1), patch("b", 2)], 2, 10)
    for epoch, since in [(2, 1), (4, 1), (3, 9)]:
        (chunk,) = answer(published, epoch, since)
        assert chunk.full
        assert rows([chunk]) == {"a": 1, "b": 2}


def test_a_large_answer_is_cut_into_chunks_of_one_state() -> None:
    published = live()
    size = CHUNK_BYTES // 3
    published.apply([patch(f"t{n}", n, size=size) for n in range(1, 8)], 7, 70)
    chunks = answer(published, 0, 0)
    assert [chunk.chunk for chunk in chunks] == list(range(len(chunks)))
    assert {chunk.chunks for chunk in chunks} == {len(chunks)}
    assert len(chunks) == 4
    assert {(chunk.epoch, chunk.seq) for chunk in chunks} == {(3, 7)}
    assert rows(chunks) == {f"t{n}": n for n in range(1, 8)}


def test_after_a_final_row_is_forgotten_older_requests_get_a_full_answer() -> None:
    published = live()
    published.apply([patch("a", 1), patch("b", 2)], 2, 10)
    published.apply([patch("a", 3, last=True)], 3, 10)
    assert rows(answer(published, 3, 2)) == {"a": 3}
    published.forget_gone()
    (older,) = answer(published, 3, 2)
    assert older.full
    assert rows([older]) == {"b": 2}
    (newer,) = answer(published, 3, 3)
    assert not newer.full


def test_a_token_that_trades_again_is_not_forgotten() -> None:
    published = live()
    published.apply([patch("a", 1, last=True)], 1, 10)
    published.apply([patch("a", 2)], 2, 11)
    published.forget_gone()
    assert rows(answer(published, 0, 0)) == {"a": 2}


def test_while_rebuilding_nothing_is_shown() -> None:
    published = PublishedPartition(0, 5)
    (chunk,) = answer(published, 0, 0)
    assert (chunk.state, chunk.tokens, chunk.seq) == ("rebuilding", [], 0)
