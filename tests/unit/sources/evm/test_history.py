"""What the journal gives back after a restart, entry by entry."""

from __future__ import annotations

import pytest

from aggregator.runtime.errors import Fatal
from sources.events import Outgoing, retraction
from sources.evm.history import FOLLOW, BlockHistory, newest_seq, restore
from sources.evm.types import BlockRef

KEEP = 4


def block(number: int, fork: str = "a") -> BlockRef:
    return BlockRef(number, f"0x{fork}{number}", f"0x{fork}{number - 1}")


def events(of: BlockRef, count: int = 2, size: int = 10) -> list[Outgoing]:
    text = '{"h":"%s","n":%d,"x":"%s"}'
    return [
        Outgoing(b"chain:token", (text % (of.hash, at, "x" * size)).encode()) for at in range(count)
    ]


class Journaled:
    """A history that writes to a journal, with the entries that it holds."""

    def __init__(self, first: int = 10) -> None:
        self.entries: dict[str, bytes] = {}
        self.history = BlockHistory.empty(first, 0, keep=KEEP)
        self.write(self.history.move(first, None))

    def write(self, entries: dict[str, bytes | None], *, only: int | None = None) -> None:
        for key, value in list(entries.items())[:only]:
            if value is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = value

    def add(self, *blocks: BlockRef, count: int = 2, size: int = 10) -> None:
        for each in blocks:
            sent = events(each, count, size)
            self.write(self.history.add(each, sent))
            self.history.carried_out(sent)

    def retract(self) -> None:
        intent, taken_back = self.history.retract(self.history.follower.kept[-1])
        self.write(intent)
        self.history.carried_out(taken_back)

    def restored(self) -> BlockHistory:
        found = restore(self.entries, keep=KEEP)
        assert found is not None
        return found


def test_nothing_is_restored_of_a_source_that_has_not_begun() -> None:
    assert restore({}, keep=KEEP) is None
    assert newest_seq({}) == 0


def test_the_newest_block_may_be_unfinished() -> None:
    journal = Journaled()
    journal.add(block(10), block(11))
    history = journal.restored()
    assert list(history.follower.kept) == [block(10), block(11)]
    assert history.follower.root is None
    assert history.unfinished == events(block(11))


def test_a_retraction_may_be_unfinished() -> None:
    journal = Journaled()
    journal.add(block(10), block(11))
    journal.retract()
    history = journal.restored()
    assert list(history.follower.kept) == [block(10)]
    taken_back = [retraction(sent) for sent in reversed(events(block(11)))]
    assert history.unfinished == taken_back
    assert taken_back[0].value.endswith(b',"removed":true}')


def test_all_that_is_kept_may_be_retracted() -> None:
    journal = Journaled()
    journal.add(*(block(number) for number in range(10, 16)))
    for _ in range(KEEP):
        journal.retract()
    follower = journal.restored().follower
    assert (follower.first, follower.root, list(follower.kept)) == (12, "0xa11", [])


def test_the_oldest_blocks_are_forgotten() -> None:
    journal = Journaled()
    journal.add(*(block(number) for number in range(10, 20)))
    follower = journal.restored().follower
    assert [each.number for each in follower.kept] == [16, 17, 18, 19]
    assert (follower.first, follower.root) == (16, "0xa15")
    assert len(journal.entries) == KEEP + 1


def test_a_large_block_is_journaled_in_parts() -> None:
    journal = Journaled()
    large = events(block(10), 30, 50_000)
    journal.add(block(10), count=30, size=50_000)
    assert max(len(value) for value in journal.entries.values()) < 500_000
    assert journal.restored().unfinished == large
    journal.retract()
    assert journal.restored().unfinished == [retraction(sent) for sent in reversed(large)]


def test_a_part_that_a_later_block_overwrote_ends_what_is_kept() -> None:
    journal = Journaled()
    journal.add(block(10), count=30, size=50_000)
    journal.add(block(11), block(12), block(13))
    # The process is killed between the parts of block 14, which takes the place of block 10.
    journal.write(journal.history.add(block(14), events(block(14), 30, 50_000)), only=1)
    follower = journal.restored().follower
    assert [each.number for each in follower.kept] == [11, 12, 13]
    assert follower.root == "0xa10"


def test_the_entries_of_before_a_move_are_void() -> None:
    journal = Journaled()
    journal.add(block(10), block(11))
    journal.write(journal.history.move(100, "0xa99"))
    follower = journal.restored().follower
    assert (follower.first, follower.root, list(follower.kept)) == (100, "0xa99", [])


@pytest.mark.parametrize("key", [FOLLOW, "block:2"])
def test_an_entry_of_another_program_stops_the_source(key: str) -> None:
    journal = Journaled()
    journal.entries[key] = b'{"seq": "seven"}'
    with pytest.raises(Fatal, match=f"journal entry `{key}` cannot be read .* source reset NAME"):
        journal.restored()
