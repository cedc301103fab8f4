"""Profiles of the test's own process: the busy code shows up, in every format."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aggregator.runtime.profiling import folded, heap, pprof, requests, sampler
from aggregator.runtime.profiling.profile import Profile, StackFrame, ValueKind


def burn(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(200))


def rest(stop: threading.Event) -> None:
    stop.wait()


@contextmanager
def working() -> Iterator[None]:
    stop = threading.Event()
    threads = [
        threading.Thread(target=work, args=(stop,), name=f"it-{work.__name__}s")
        for work in (burn, rest)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_cpu_time_is_where_the_work_is_and_wall_time_everywhere() -> None:
    with working():
        taken = sampler.sample(0.6)
    sums: dict[str, list[int]] = {}
    for (thread, stack), values in taken.samples.items():
        summed = sums.setdefault(thread, [0, 0, 0])
        for place, value in enumerate(values):
            summed[place] += value
        if thread == "it-burns":
            assert "burn" in {frame.function for frame in stack} or values[2] == 0
    assert sums["it-burns"][2] > 10 * sums["it-rests"][2]
    assert sums["it-burns"][2] > 5_000_000
    assert sums["it-rests"][1] > 300_000_000
    lines = folded.encode(taken, "cpu").splitlines()
    assert any(
        line.startswith("it-burns;") and "burn (test_profiling.py)" in line for line in lines
    )


LEAF = StackFrame("leaf", "/a.py", 7, 5)
SMALL = Profile(
    kinds=(ValueKind("samples", "count"), ValueKind("cpu", "nanoseconds")),
    samples={
        ("main", (LEAF, StackFrame("root", "/b<c>.py", 300, 1))): (
            2,
            1_000,
        ),
        ("main", (StackFrame("root", "/b<c>.py", 301, 1),)): (1, 3_000),
    },
    began_ns=1_700_000_000_000_000_000,
    took_ns=2_000_000_000,
    period_kind=ValueKind("wall", "nanoseconds"),
    period=10_000_000,
)


def fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a message of protocol buffers, as its encoding is documented."""
    found: list[tuple[int, int | bytes]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        value = varint()
        if tag & 7 == 2:
            found.append((tag >> 3, message[at : at + value]))
            at += value
        else:
            assert tag & 7 == 0
            found.append((tag >> 3, value))
    return found


def test_the_file_is_the_message_of_pprof() -> None:
    whole = fields(gzip.decompress(pprof.encode(SMALL)))
    numbers = [number for number, _ in whole]
    strings = [
        value.decode() for number, value in whole if number == 6 and isinstance(value, bytes)
    ]
    assert strings[0] == ""
    assert {"leaf", "root", "/a.py", "/b<c>.py", "cpu", "thread", "main"} <= set(strings)
    assert [numbers.count(each) for each in (1, 2, 4, 5)] == [2, 2, 3, 2]
    samples = [
        dict(fields(value)) for number, value in whole if number == 2 and isinstance(value, bytes)
    ]
    assert samples[0][2] == b"\x02\xe8\x07"
    assert dict(whole)[9] == SMALL.began_ns
    assert dict(whole)[10] == SMALL.took_ns


def test_folded_lines_have_the_outermost_frame_first() -> None:
    assert folded.encode(SMALL, "samples") == (
        "main;root (b<c>.py) 1\nmain;root (b<c>.py);leaf (a.py) 2\n"
    )


def test_held_memory_is_attributed_to_the_line_that_allocated_it() -> None:
    made: list[bytes] = []
    stop = threading.Event()

    def fill() -> None:
        while not stop.wait(0.01):
            made.append(b"x" * 100_000 + bytes(len(made)))

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        taken = heap.held(0.4)
    finally:
        stop.set()
        thread.join()
    largest = max(taken.samples.items(), key=lambda sample: sample[1][1])
    assert largest[0][1][0].file == __file__
    assert largest[1][1] >= 100_000


@pytest.mark.parametrize(
    ("name", "query", "status"),
    [
        ("goroutine", {}, 404),
        ("profile", {"seconds": "soon"}, 422),
        ("profile", {"seconds": "121"}, 422),
        ("profile", {"seconds": "0"}, 422),
        ("profile", {"format": "pdf"}, 422),
        ("heap", {"value": "cpu"}, 422),
    ],
)
def test_a_wrong_request_is_refused(name: str, query: dict[str, str], status: int) -> None:
    with pytest.raises(requests.Unasked) as refused:
        requests.answer(name, query)
    assert refused.value.status == status


def test_one_profile_at_a_time() -> None:
    with requests._one_at_a_time, pytest.raises(requests.Unasked) as refused:
        requests.answer("profile", {"seconds": "0.01"})
    assert refused.value.status == 409
