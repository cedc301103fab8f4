"""Reads recorded events from NDJSON files (plain or gzip) and moves them in time.

An event is changed by replacing the raw JSON of single fields, so every other field keeps its
bytes. A line that is not an event is passed on unchanged. Knows nothing of Kafka.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import IO, Annotated, Final

import msgspec

from aggregator.feed.stream import Record, token_key
from aggregator.runtime.errors import Fatal

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_GZIP_MAGIC: Final = b"\x1f\x8b"
# A later time is garbage, and waiting for it or shifting it to now would ruin all other times.
_YEAR_9999: Final = 253_402_300_799_999


class Envelope(msgspec.Struct, gc=False):
    """The fields that a feed reads; it ignores all others."""

    chain: str
    token: str
    tx_hash: str
    timestamp: (
        Annotated[int, msgspec.Meta(ge=0, le=_YEAR_9999)]
        | Annotated[datetime, msgspec.Meta(tz=True)]
    )


_decode_envelope = msgspec.json.Decoder(Envelope).decode
# Returns the raw JSON of every field by name.
decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Tape:
    """Files of events, read line by line, one after another in the given order."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Check the paths. Raises Fatal, which names every path that is not a file."""
        self._paths = list(paths)
        missing = [str(path) for path in self._paths if not path.is_file()]
        if missing:
            raise Fatal(f"no such file: {', '.join(missing)}")
        self._sizes = [path.stat().st_size for path in self._paths]
        self._done = 0
        self._open: IO[bytes] | None = None

    def lines(self) -> Iterator[bytes]:
        """Yield every line that is not blank, without its line end. Each call is a new pass.

        Raises Fatal for a file that cannot be read or a gzip file that is damaged.
        """
        self._done = 0
        for path, size in zip(self._paths, self._sizes, strict=True):
            try:
                with path.open("rb") as file:
                    self._open = file
                    for line in _unpacked(file):
                        if stripped := line.strip():
                            yield stripped
            except (OSError, EOFError, zlib.error) as error:
                raise Fatal(f"{path} cannot be read: {error}") from error
            finally:
                self._open = None
            self._done += size

    def share(self) -> float:
        """Return the share of the files that this pass has read, 0 to 1, by bytes on disk."""
        here = self._open.tell() if self._open is not None else 0
        return min(1.0, (self._done + here) / max(1, sum(self._sizes)))

    def newest(self) -> int:
        """Return the newest event time in ms, after a complete pass. Raises Fatal without any."""
        times = (record.timestamp for record in recorded(self.lines()))
        newest = max((time for time in times if time is not None), default=None)
        if newest is None:
            raise Fatal("no event in these files has a time")
        return newest


def _unpacked(file: IO[bytes]) -> IO[bytes] | gzip.GzipFile:
    magic = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if magic == _GZIP_MAGIC else file


def recorded(lines: Iterable[bytes]) -> Iterator[Record]:
    """Yield the lines as they are."""
    for line in lines:
        yield read(line)[0]


def shifted(lines: Iterable[bytes], by_ms: int) -> Iterator[Record]:
    """Yield the events moved in time by `by_ms`; their times become whole ms."""
    for line in lines:
        record, _ = read(line)
        if record.timestamp is None:
            yield record
            continue
        timestamp = record.timestamp + by_ms
        fields = decode_fields(line)
        fields["timestamp"] = msgspec.Raw(b"%d" % timestamp)
        yield Record(record.key, _encode(fields), timestamp)


def relived(lines: Iterable[bytes], run: str, now_ms: Callable[[], int]) -> Iterator[Record]:
    """Yield the events as new events that happen at the moment they are taken.

    The transaction hash is derived from `run` and the recorded hash: it differs between runs, and
    is equal for events of one recorded transaction, so a retraction still finds its swap.
    """
    for line in lines:
        record, envelope = read(line)
        if envelope is None:
            yield record
            continue
        digest = blake2b(f"{run}:{envelope.tx_hash}".encode(), digest_size=32).hexdigest()
        timestamp = now_ms()
        fields = decode_fields(line)
        fields["tx_hash"] = msgspec.Raw(f'"0x{digest}"'.encode())
        fields["timestamp"] = msgspec.Raw(b"%d" % timestamp)
        yield Record(record.key, _encode(fields), timestamp)


def endless(
    tape: Tape, play: Callable[[Iterable[bytes], int], Iterator[Record]]
) -> Iterator[Record]:
    """Yield the records of `play(lines, turn)` over the whole tape repeatedly, turn = 0, 1, …

    Raises Fatal for a tape without a line, which would loop without yielding a record.
    """
    turn = 0
    while True:
        empty = True
        for record in play(tape.lines(), turn):
            empty = False
            yield record
        if empty:
            raise Fatal("these files hold no line")
        turn += 1


def read(line: bytes) -> tuple[Record, Envelope | None]:
    """Return the record of a line, and its envelope; None where the line is not an event."""
    try:
        envelope = _decode_envelope(line)
        key = token_key(envelope.chain, envelope.token)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return Record(None, line, None), None
    return Record(key, line, _ms(envelope.timestamp)), envelope


def _ms(time: int | datetime) -> int:
    if isinstance(time, int):
        return time
    return (time - _EPOCH) // timedelta(milliseconds=1)
