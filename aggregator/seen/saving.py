"""The journal in the form in which it is saved (`words.py`), and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.seen import NEVER, SeenHeader
from aggregator.seen.journal import NONE, Journal, with_slots
from aggregator.seen.words import (
    BLOCK_BITS,
    BLOCK_WORDS,
    SECTION_WORDS,
    WORD,
    WORD_BYTES,
    packed_block,
    section_name,
    section_place,
    unpacked_block,
)


def closed_blocks(journal: Journal, begin: int, end: int) -> dict[int, bytes]:
    """Return the blocks [begin, end), by number; all are closed, and `begin` is not forgotten."""
    slots = journal.slots
    held = np.flatnonzero(slots["number"] != NONE)
    held = held[np.argsort(slots["number"][held])]
    numbers = slots["number"][held]
    blocks = {}
    for number in range(begin, end):
        # A block without a slot has no record, so its end is that of the block before it.
        place = int(np.searchsorted(numbers, number, "right")) - 1
        slot = int(held[place])
        words = _words(journal, slot) if numbers[place] == number else None
        blocks[number] = packed_block(number, int(slots[slot]["end"]), words)
    return blocks


def tail_sections(journal: Journal, since: int) -> dict[bytes, bytes]:
    """Return the sections of the open block that have a record from offset `since` on."""
    numbers = journal.state[0]
    slot = int(numbers["open"])
    first = int(journal.slots[slot]["number"]) << BLOCK_BITS
    begin = max(since - first, 0)
    end = min(int(numbers["next_offset"]) - first, BLOCK_WORDS)
    words = _words(journal, slot)
    sections = {}
    for start in range(begin - begin % SECTION_WORDS, end if begin < end else 0, SECTION_WORDS):
        until = start + SECTION_WORDS
        if words["rest"][max(begin, start) : until].any():
            sections[section_name(start // SECTION_WORDS)] = words[start:until].tobytes()
    return sections


def with_saved_words(
    journal: Journal,
    header: SeenHeader,
    blocks: Mapping[int, bytes],
    sections: Mapping[bytes, bytes],
) -> Journal:
    """Return a new journal with the words of a save; its table has none of their ids yet.

    Raises ValueError if a block is missing, or if one or a section is not in its format.
    """
    held: list[tuple[int, int, Array]] = []
    for number in range(header.first_block, header.open_block):
        if number not in blocks:
            raise ValueError(f"block {number} is missing")
        end, words = unpacked_block(number, blocks[number])
        # Like the journal that was saved, do not hold what has nothing to forget.
        if len(words) or not held or held[-1][1] != end:
            held.append((number, end, words))
    held.append((header.open_block, NEVER, _tail(sections)))
    count = len(held)
    journal = with_slots(journal, count + 2)
    for slot, (number, end, words) in enumerate(held, 1):
        journal.slots[slot] = (number, end, slot + 1 if slot < count else NONE)
        room = _words(journal, slot).view(np.uint8)
        room[:] = words.view(np.uint8) if len(words) else np.uint8(0)
    journal.state[0]["open"], journal.state[0]["fresh"] = count, count + 1
    return journal


def _words(journal: Journal, slot: int) -> Array:
    return journal.words[slot << BLOCK_BITS : (slot + 1) << BLOCK_BITS]


def _tail(sections: Mapping[bytes, bytes]) -> Array:
    """Return the words of an open block."""
    tail = np.zeros(BLOCK_WORDS, WORD)
    for name, data in sections.items():
        if len(data) != SECTION_WORDS * WORD_BYTES:
            raise ValueError(f"{name!r} has {len(data)} bytes")
        begin = section_place(name) * SECTION_WORDS
        tail[begin : begin + SECTION_WORDS] = np.frombuffer(data, WORD)
    return tail
