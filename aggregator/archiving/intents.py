"""The intent that an archiver commits before each insert, and its position in the commit metadata.

Before an insert the archiver commits its position together with the intent: the offsets of the
batch, the letter of each, and which row each row of sign -1 negates. The next owner of the
partition repeats exactly that batch with the same tokens (DESIGN 4 rule 10), so ClickHouse drops
whatever it already has. This module does no input or output.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from aggregator.clickhouse.writer import Span
from aggregator.contracts.arrays import Array
from aggregator.runtime.errors import Fatal

# The default limit of a broker for the metadata of a commit (offset.metadata.max.bytes). A broker
# refuses a commit above it, and an insert without a committed intent could be doubled, so `cut`
# shortens the batch until the metadata fits.
MAX_METADATA: Final = 4_096
# Gaps share the 4 KB with the intent, so only the newest are kept; each is also logged.
MAX_GAPS: Final = 8
NO_ROW: Final = "X"
_FORMAT: Final = "2"
# The version before began with the watermark, or null, and had four fields.
_OLD_FIELDS: Final = 4


class Place(NamedTuple):
    """Where a row's record lies in the log."""

    partition: int
    offset: int


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """The offsets [first, last] of a partition that are about to be inserted.

    `verdicts` packs one letter per offset: that of its row, or NO_ROW. `spans` holds (day, first,
    last) of each block, `decided_at` is in ms since the epoch. `negated` packs, for each row of
    sign -1 in the order of offsets, the place of the row that it negates.
    """

    # The records to read again. Only offsets are kept: the log holds the records themselves.
    first: int
    last: int
    # It becomes `ingested_at` of the rows, so a redo writes the same rows. It also bounds how many
    # tokens ClickHouse has noted since, and thereby whether it can still know those of this batch.
    decided_at: int
    # A block's token is made of its span. With the spans the next owner can look up every block,
    # or take its token, even after the log has deleted the records.
    spans: list[tuple[int, int, int]]
    # The next owner decides nothing again: what it knows may differ by then.
    verdicts: str
    # The values of a -1 are those of a row of the archive, or of this batch, not of its record.
    negated: str = ""

    def letters(self) -> Array:
        """Return one letter (uint8) for each offset of [first, last]."""
        return np.frombuffer(zlib.decompress(base64.b85decode(self.verdicts)), np.uint8)

    def block_spans(self) -> list[Span]:
        """Return where the blocks of the batch lie."""
        return [Span(*span) for span in self.spans]

    def negated_places(self) -> list[Place]:
        """Return the place of each negated row."""
        if not self.negated:
            return []
        steps = np.frombuffer(zlib.decompress(base64.b85decode(self.negated)), np.int64)
        return [Place(*each) for each in np.cumsum(steps.reshape(-1, 2), axis=0).tolist()]


def pack_letters(letters: Array) -> str:
    """Pack letters for `Intent.verdicts`."""
    # The alphabet of base85 has neither a quote nor a backslash, so JSON adds no escapes.
    return base64.b85encode(zlib.compress(letters.tobytes(), 9)).decode()


def pack_places(places: Sequence[tuple[int, int]]) -> str:
    """Pack the places of negated rows for `Intent.negated`."""
    if not places:
        return ""
    # Neighbours differ little, so their differences compress well.
    steps = np.diff(np.array(places, np.int64), axis=0, prepend=0)
    return base64.b85encode(zlib.compress(steps.tobytes(), 9)).decode()


class Switch(msgspec.Struct, frozen=True, array_like=True):
    """Where an archive of the version before continues, and when (ms).

    `clock` is the log clock there, or the machine's time if that is later. Rows that name no topic
    are then the topic's own.
    """

    offset: int
    clock: int


class LogPosition(msgspec.Struct, frozen=True, array_like=True):
    """How far an archiver is in a partition; the metadata beside the committed offset.

    `clock` (the log clock, ms) and `origins` (the highest origin offset seen of each partition that
    forwarded records here) hold at the end of the intent's batch if there is an intent, else at the
    committed offset. `gaps` holds the newest ranges [first, end) that the log no longer held when
    they were to be archived. `epoch` is that of the archive (`ArchiveWriter.epoch`) as of the
    archiver's last filling, or of the one that it waits for: then there is no intent.
    """

    format: str = _FORMAT
    # The next owner decides limits, and what is forgotten, from here.
    clock: int | None = None
    origins: dict[int, int] = {}
    # Kept here so that /api/status still shows them after a takeover.
    gaps: list[tuple[int, int]] = []
    # A topic that is made again under its name has another id.
    topic_id: str = ""
    # What decides where a token is at home stays the same for as long as the topic lives.
    homes: int = 0
    partitioner: str = ""
    switch: Switch | None = None
    intent: Intent | None = None
    # A backfill waits until it reads its own epoch here, with no intent.
    epoch: int = 0

    @property
    def from_before(self) -> bool:
        """Whether the version before wrote the position."""
        return self.format != _FORMAT


def pack(position: LogPosition) -> str:
    """Return the commit metadata of a position; at most MAX_METADATA bytes for one of `cut`."""
    return _encode(position).decode()


def unpack(metadata: str) -> LogPosition:
    """Read a position from commit metadata; "" gives the position of a group without commits.

    Raises Fatal if no archiver wrote the metadata, or if the version before left an intent.
    """
    if not metadata:
        return LogPosition()
    try:
        found: list[Any] = _decode_list(metadata)
        if found and found[0] == _FORMAT:
            return _decode(metadata)
        if len(found) == _OLD_FIELDS:
            return _from_before(found)
        why = "unknown format"
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        why = str(error)
    raise Fatal(
        f"the group's commit metadata is not an archiver's ({metadata[:80]!r}): {why}. "
        "Give ARCHIVER_GROUP a name of its own"
    )


def _from_before(found: list[Any]) -> LogPosition:
    _, _, gaps, intent = found
    if intent is not None:
        raise Fatal(
            "the archiver of the version before has not completed its last insert: start that "
            "version's archiver once more, stop it when its lag is 0, then start this one"
        )
    return LogPosition(format="1", gaps=[(int(first), int(end)) for first, end in gaps])


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(LogPosition).decode
_decode_list = msgspec.json.Decoder(list[Any]).decode
