"""A profile in pprof's format: the message `perftools.profiles.Profile`, gzipped.

Source: https://github.com/google/pprof/blob/main/proto/profile.proto. The message
needs only varints and bytes of protocol buffers (https://protobuf.dev/programming-guides/encoding/),
so this module writes them without a library. `go tool pprof` shows the last kind of value by
default.
"""

from __future__ import annotations

import gzip

from aggregator.runtime.profiling.profile import Profile, StackFrame, ValueKind

_BYTES = 2


def encode(profile: Profile) -> bytes:
    """Return the file that `go tool pprof` reads."""
    tables = _Tables()
    body = bytearray()
    for kind in profile.kinds:
        body += _message(1, tables.kind(kind))
    for (thread, stack), values in profile.samples.items():
        whole = _packed(1, [tables.location(frame) for frame in stack]) + _packed(2, values)
        if thread:
            label = _number(1, tables.string("thread")) + _number(2, tables.string(thread))
            whole += _message(3, label)
        body += _message(2, whole)
    body += tables.written()
    body += _number(9, profile.began_ns) + _number(10, profile.took_ns)
    body += _message(11, tables.kind(profile.period_kind)) + _number(12, profile.period)
    body += b"".join(_message(6, text.encode()) for text in tables.strings)
    return gzip.compress(bytes(body), mtime=0)


class _Tables:
    """The strings, functions and locations that samples refer to by number.

    Numbers of locations and functions start at 1.
    """

    def __init__(self) -> None:
        self.strings: dict[str, int] = {"": 0}
        self._functions: dict[tuple[str, str, int], int] = {}
        self._locations: dict[StackFrame, int] = {}

    def string(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def kind(self, kind: ValueKind) -> bytes:
        return _number(1, self.string(kind.name)) + _number(2, self.string(kind.unit))

    def location(self, frame: StackFrame) -> int:
        function = (frame.function, frame.file, frame.first_line)
        self._functions.setdefault(function, len(self._functions) + 1)
        return self._locations.setdefault(frame, len(self._locations) + 1)

    def written(self) -> bytes:
        out = bytearray()
        for frame, number in self._locations.items():
            function = self._functions[frame.function, frame.file, frame.first_line]
            line = _number(1, function) + _number(2, frame.line)
            out += _message(4, _number(1, number) + _message(4, line))
        # No system name: where it equals the name, pprof takes it for C++ and strips what is in <>.
        for (name, file, first_line), number in self._functions.items():
            out += _message(
                5,
                _number(1, number)
                + _number(2, self.string(name))
                + _number(4, self.string(file))
                + _number(5, first_line),
            )
        return bytes(out)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(body)) + body


def _packed(field: int, values: list[int] | tuple[int, ...]) -> bytes:
    return _message(field, b"".join(map(_varint, values)))
