"""Checks events by the decoder that the aggregator uses, so none of them becomes a dead letter.

The decoder runs in the event loop, in slices of about a millisecond: a thread would hold the
interpreter's lock for longer at a time, and every socket would wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from aggregator.decoding.decoder import BatchDecoder, ReadRecords, compile_decoder
from aggregator.runtime.errors import BadMessage
from api.ingest.body import SentEvents
from api.ingest.verdicts import LineVerdicts

LINE_BYTES: Final = 65_536
_SLICE_LINES: Final = 100
_SLICE_BYTES: Final = 65_536


class EventCheck:
    """Gives each event its verdict and its key, the canonical id of its token.

    Creating it loads the compiled passes of the decoder, which takes a second, and a minute where
    `manage.py compile_engine` has not run.
    """

    def __init__(self, max_future_ms: int) -> None:
        compile_decoder()
        self._decoder = BatchDecoder(max_future_ms)

    async def check(
        self, events: SentEvents, now_ms: int, chains: frozenset[str] | None = None
    ) -> LineVerdicts:
        """Return the verdicts on all events; other tasks run in between.

        `now_ms` is the wall clock. A record is stamped when it is sent, so MAX_FUTURE holds in the
        aggregator if it holds here. `chains` are those that the caller may write; None: all.
        """
        verdicts = LineVerdicts()
        for begin, end in _slices(events.values):
            values, lines = events.values[begin:end], events.lines[begin:end]
            self._check(values, lines, now_ms, chains, verdicts)
            await asyncio.sleep(0)
        return verdicts

    def _check(
        self,
        values: list[bytes],
        lines: list[int],
        now_ms: int,
        chains: frozenset[str] | None,
        verdicts: LineVerdicts,
    ) -> None:
        small = [value if len(value) <= LINE_BYTES else b"" for value in values]
        records = ReadRecords(small, [now_ms] * len(values), range(len(values)))
        swaps, rejected = self._decoder.decode(records)
        bad = dict(rejected)
        names = swaps.records["name"].tolist()
        for place, (line, value) in enumerate(zip(lines, values, strict=True)):
            if (error := bad.get(place)) is not None:
                verdicts.refuse(line, error if value is small[place] else _too_large(value))
                continue
            token_id = swaps.token_names[names[place]].token_id
            if chains is not None and token_id.partition(":")[0] not in chains:
                verdicts.refuse(line, _other_chain(chains))
            else:
                verdicts.records.append((token_id.encode(), value))


def _slices(values: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of runs of at most _SLICE_LINES events and about _SLICE_BYTES."""
    begin = size = 0
    for end, value in enumerate(values, 1):
        size += len(value)
        if end - begin == _SLICE_LINES or size >= _SLICE_BYTES or end == len(values):
            yield begin, end
            begin, size = end, 0


def _too_large(value: bytes) -> BadMessage:
    return BadMessage("too_large", "", f"{len(value):,} bytes; at most {LINE_BYTES:,}")


def _other_chain(chains: frozenset[str]) -> BadMessage:
    allowed = ", ".join(sorted(chains)) or "no chain"
    return BadMessage("chain", "chain", f"the token may write {allowed}")
