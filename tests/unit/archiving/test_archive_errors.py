"""Which errors of a server say that it cannot read a part, and which part."""

from __future__ import annotations

import pytest

from aggregator.clickhouse.connection import unreadable_part

READING = "While reading or decompressing /data/store/1d1/1d16627f-29c1/{}/data.bin"


@pytest.mark.parametrize(
    ("code", "message", "part"),
    [
        (33, f"Cannot read all data. {READING.format('20261123_3_19_2')}", "20261123_3_19_2"),
        (228, "Unexpected size of file data.bin in data part 202611_7_7_0", "202611_7_7_0"),
        (40, f"Checksum doesn't match. {READING.format('20261123_3_3_0')}", "20261123_3_3_0"),
        # An insert that breaks off, and a transient fault.
        (33, "Cannot read all data. Bytes read: 10. Bytes expected: 20", ""),
        (243, f"No space for {READING.format('20261123_3_3_0')}", ""),
    ],
)
def test_the_part_that_cannot_be_read(code: int, message: str, part: str) -> None:
    assert unreadable_part(code, message) == part
