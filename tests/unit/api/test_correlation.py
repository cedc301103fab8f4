"""Which ids of a caller are kept, and which are generated."""

from __future__ import annotations

import pytest

from api.correlation import correlation_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("traceparent", "taken"),
    [
        pytest.param(f"00-{TRACE}-{PARENT}-01", True, id="as the standard has it"),
        pytest.param(f"01-{TRACE}-{PARENT}-01-later", True, id="a later version"),
        pytest.param(f"ff-{TRACE}-{PARENT}-01", False, id="the forbidden version"),
        pytest.param(f"00-{'0' * 32}-{PARENT}-01", False, id="no trace"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", False, id="no parent"),
        pytest.param(f"00-{TRACE.upper()}-{PARENT}-01", False, id="capitals"),
        pytest.param("", False, id="absent"),
    ],
)
def test_the_trace_of_the_caller(traceparent: str, taken: bool) -> None:
    found = correlation_of("", traceparent)
    assert (found.trace_id == TRACE) is taken
    assert len(found.trace_id) == 32


@pytest.mark.parametrize(
    ("request_id", "taken"),
    [("abc-1.2_3", True), ("x" * 64, True), ("x" * 65, False), ('a"b', False), ("a\nb", False)],
)
def test_the_request_id_of_the_caller(request_id: str, taken: bool) -> None:
    assert (correlation_of(request_id, "").request_id == request_id) is taken
    assert correlation_of("", "") != correlation_of("", "")
