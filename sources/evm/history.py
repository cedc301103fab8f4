"""What the journal holds of an EVM source: which blocks were sent, and with which events. Pure.

An entry of a block is an intent: it is durable before the first of its events, or of their
retractions, is sent. Intents are numbered (`seq`) and carried out one after the other, so only the
newest can be unfinished; to send it again is harmless, because a repeat of a record is counted as
nothing. The place of an entry is its block's number modulo the number of blocks that are kept, so
the journal does not grow. Entries are JSON:

    chain      {"chain_id": 1, "genesis": "0x..."}          the chain that the source belongs to
    begin      {"from_block": 123 | "latest"}               where an operator wants it to begin
    follow     {"seq": 7, "first": 124, "root": "0x..."}    all blocks before `first` are sent
    block:N    {"seq": 8, "number": 124, "hash": ..., "parent": ..., "state": "added" |
                "retracted", "parts": 1, "events": [[key, event], ...]}
    block:N.1  {"hash": ..., "events": [...]}               further events of a large block

`root` is the hash of the block before `first`, null where nothing before it was sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, takewhile
from typing import Final, Literal, Self, TypeVar

import msgspec

from aggregator.runtime.errors import Fatal
from sources.events import Outgoing, retraction
from sources.evm.follower import Follower
from sources.evm.types import BlockRef, ChainIdentity

CHAIN: Final = "chain"
BEGIN: Final = "begin"
FOLLOW: Final = "follow"
_BLOCK: Final = "block:"
_PART_BYTES: Final = 400_000

Event = tuple[str, msgspec.Raw]


class BeginEntry(msgspec.Struct, frozen=True):
    """Where a source is to begin instead of where it is."""

    from_block: int | Literal["latest"]


class FollowEntry(msgspec.Struct, frozen=True):
    """From where on blocks are kept: entries of blocks with a lower `seq` are void."""

    seq: int
    first: int
    root: str | None


class BlockEntry(msgspec.Struct, frozen=True):
    """The intent to add a block or to retract it."""

    seq: int
    number: int
    hash: str
    parent: str
    state: Literal["added", "retracted"]
    events: list[Event]
    parts: int = 1

    @property
    def ref(self) -> BlockRef:
        """The block's place in its chain."""
        return BlockRef(self.number, self.hash, self.parent)


class PartEntry(msgspec.Struct, frozen=True):
    """Events of a block that is too large for one record of the journal."""

    hash: str
    events: list[Event]


E = TypeVar("E", ChainIdentity, BeginEntry, FollowEntry, BlockEntry, PartEntry)


class BlockHistory:
    """The blocks that a source keeps, their events, and the journal's entries about them.

    `add` and `retract` return an intent: the caller writes it, reports that with `carried_out`, and
    sends the events. `unfinished` are the events of an intent that may not be sent yet.
    """

    def __init__(
        self,
        follower: Follower,
        events: Mapping[str, Sequence[Outgoing]],
        seq: int,
        *,
        keep: int,
        unfinished: Sequence[Outgoing] = (),
    ) -> None:
        self.follower = follower
        self.unfinished: Sequence[Outgoing] = unfinished
        self._events = dict(events)
        self._seq = seq
        self._keep = keep
        self._intended: BlockRef | None = None

    @classmethod
    def empty(cls, first: int, seq: int, *, keep: int) -> Self:
        """Return the history of a source that has sent nothing before the block `first`."""
        return cls(Follower(first, None, keep=keep), {}, seq, keep=keep)

    def add(self, block: BlockRef, events: Sequence[Outgoing]) -> dict[str, bytes | None]:
        """Return the intent to add a block with its events."""
        self._intended = block
        self._events[block.hash] = tuple(events)
        if len(self._events) > 2 * self._keep:
            kept = {each.hash for each in self.follower.kept} | {block.hash}
            self._events = {of: sent for of, sent in self._events.items() if of in kept}
        return self._intent(block, "added", events)

    def retract(self, block: BlockRef) -> tuple[dict[str, bytes | None], list[Outgoing]]:
        """Return the intent to retract a kept block, and the retractions, newest first."""
        self._intended = None
        events = self._events[block.hash]
        return self._intent(block, "retracted", events), _taken_back(events)

    def carried_out(self, events: Sequence[Outgoing]) -> None:
        """Note that the newest intent is durable; its events are unfinished until they are sent."""
        if self._intended is None:
            self.follower.retracted()
        else:
            self.follower.added(self._intended)
        self.unfinished = events

    def move(self, first: int, root: str | None) -> dict[str, bytes | None]:
        """Return the entry that says that all blocks before `first` are sent; keep none of them."""
        self._seq += 1
        self.follower = Follower(first, root, keep=self._keep)
        self._events.clear()
        return {FOLLOW: msgspec.json.encode(FollowEntry(self._seq, first, root)), BEGIN: None}

    def _intent(
        self, block: BlockRef, state: Literal["added", "retracted"], events: Sequence[Outgoing]
    ) -> dict[str, bytes | None]:
        """Return the entries of an intent; the one that makes it valid comes last."""
        self._seq += 1
        parts = list(_parts(events))
        key = f"{_BLOCK}{block.number % self._keep}"
        entries: dict[str, bytes | None] = {
            f"{key}.{at}": msgspec.json.encode(PartEntry(block.hash, part))
            for at, part in enumerate(parts[1:], start=1)
        }
        entries[key] = msgspec.json.encode(
            BlockEntry(
                seq=self._seq,
                number=block.number,
                hash=block.hash,
                parent=block.parent,
                state=state,
                events=parts[0],
                parts=len(parts),
            )
        )
        return entries


def entry(entries: Mapping[str, bytes], key: str, kind: type[E]) -> E | None:
    """Return an entry of the journal, None where it holds none of this key.

    Raises Fatal where the entry is not what this program writes.
    """
    if (value := entries.get(key)) is None:
        return None
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError as error:
        raise Fatal(
            f"the source's journal entry `{key}` cannot be read ({error}): it was written by "
            "another program or version; run `manage.py source reset NAME --from-block N`"
        ) from error


def newest_seq(entries: Mapping[str, bytes]) -> int:
    """Return the number of the newest intent, 0 where there was none."""
    begun = entry(entries, FOLLOW, FollowEntry)
    blocks = [entry(entries, key, BlockEntry) for key in entries if _is_block(key)]
    return max((found.seq for found in (begun, *blocks) if found is not None), default=0)


def restore(entries: Mapping[str, bytes], *, keep: int) -> BlockHistory | None:
    """Return what the journal holds, None where the source has not begun.

    The newest block is that of the newest intent, or its parent where that intent retracts it; from
    there the parent hashes lead down. What is not on this path was retracted or is too old.
    """
    begun = entry(entries, FOLLOW, FollowEntry)
    if begun is None:
        return None
    slots = {
        key: found
        for key in entries
        if _is_block(key)
        and (found := entry(entries, key, BlockEntry)) is not None
        and found.seq > begun.seq
    }
    if not slots:
        return BlockHistory(Follower(begun.first, begun.root, keep=keep), {}, begun.seq, keep=keep)
    blocks = {found.number: found for found in sorted(slots.values(), key=lambda each: each.seq)}
    places = {found.hash: key for key, found in slots.items()}
    newest = max(blocks.values(), key=lambda each: each.seq)
    path = list(_path(newest, blocks))[:keep]
    events = {each.hash: _events(entries, places[each.hash], each) for each in (*path, newest)}
    path = list(takewhile(lambda each: events[each.hash] is not None, path))
    oldest = path[-1] if path else newest
    root = begun.root if oldest.number == begun.first else oldest.parent
    follower = Follower(oldest.number, root, [each.ref for each in reversed(path)], keep=keep)
    sent = {of: each for of, each in events.items() if each is not None}
    unfinished = sent.get(newest.hash, [])
    if newest.state == "retracted":
        unfinished = _taken_back(unfinished)
    return BlockHistory(follower, sent, newest.seq, keep=keep, unfinished=unfinished)


def _is_block(key: str) -> bool:
    return key.startswith(_BLOCK) and "." not in key


def _path(newest: BlockEntry, blocks: Mapping[int, BlockEntry]) -> Iterator[BlockEntry]:
    """Yield the blocks that are sent, newest first."""
    if newest.state == "added":
        yield newest
    child = newest
    for number in count(newest.number - 1, -1):
        block = blocks.get(number)
        if block is None or block.state != "added" or block.hash != child.parent:
            return
        yield block
        child = block


def _events(entries: Mapping[str, bytes], key: str, block: BlockEntry) -> list[Outgoing] | None:
    """Return the events of a block, None where another block overwrote a part of them.

    A part is overwritten by the block that takes the place of this one, which was then carried out
    and is either retracted or the oldest of the kept ones.
    """
    events = list(block.events)
    for at in range(1, block.parts):
        part = entry(entries, f"{key}.{at}", PartEntry)
        if part is None or part.hash != block.hash:
            return None
        events += part.events
    return [Outgoing(each.encode(), bytes(value)) for each, value in events]


def _parts(events: Sequence[Outgoing]) -> Iterator[list[Event]]:
    """Yield the events in parts of bounded size, at least one part."""
    part: list[Event] = []
    size = 0
    for key, value in events:
        size += len(key) + len(value)
        if part and size > _PART_BYTES:
            yield part
            part, size = [], len(key) + len(value)
        part.append((key.decode(), msgspec.Raw(value)))
    yield part


def _taken_back(events: Sequence[Outgoing]) -> list[Outgoing]:
    return [retraction(sent) for sent in reversed(events)]
