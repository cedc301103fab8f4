"""The probes of an aggregator or archiver, and the callers that may take profiles."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from aggregator.runtime.health import ALIVE_WITHIN_S, Health
from aggregator.runtime.monitor import application


class Clock:
    """Seconds that the test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def ask(health: Health, path: str, *, profiling: bool = False, **environ: str) -> tuple[int, bytes]:
    said: list[Any] = []
    request = {
        "PATH_INFO": path,
        "REQUEST_METHOD": "GET",
        "REMOTE_ADDR": "10.0.0.7",
        "wsgi.input": io.BytesIO(),
    }
    answer = application(health, profiling=profiling)
    body = b"".join(answer(request | environ, lambda status, headers: said.append(status)))
    return int(said[0].split()[0]), body


def test_a_process_is_ready_when_its_loop_reports_it() -> None:
    health = Health()
    assert ask(health, "/healthz") == (200, b'{"alive":true}')
    status, body = ask(health, "/readyz")
    assert (status, json.loads(body)["reasons"]) == (503, ["starting"])

    health.beat([], ["archive: lags"])
    status, body = ask(health, "/readyz")
    expected = {"ready": True, "reasons": [], "degraded": ["archive: lags"]}
    assert (status, json.loads(body)) == (200, expected)

    health.beat(["redis: refused"])
    assert ask(health, "/readyz")[0] == 503
    assert ask(health, "/healthz")[0] == 200


def test_a_loop_that_hangs_is_reported() -> None:
    clock = Clock()
    health = Health(clock)
    health.beat([])
    clock.now += ALIVE_WITHIN_S - 1
    assert ask(health, "/healthz")[0] == ask(health, "/readyz")[0] == 200
    clock.now += 1
    assert ask(health, "/healthz")[0] == 503
    assert b"the loop has hung for 120 s" in ask(health, "/readyz")[1]


@pytest.mark.parametrize(
    ("environ", "profiling", "expected"),
    [
        pytest.param({"REMOTE_ADDR": "127.0.0.1"}, True, 404, id="this machine, no such profile"),
        pytest.param({"REMOTE_ADDR": "::1"}, True, 404, id="this machine by IPv6"),
        pytest.param({"REMOTE_ADDR": "::ffff:127.0.0.1"}, True, 404, id="IPv4 in IPv6"),
        pytest.param({}, True, 403, id="another machine"),
        pytest.param(
            {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "10.0.0.7"},
            True,
            403,
            id="through a proxy on this machine",
        ),
    ],
)
def test_profiles_are_for_callers_on_this_machine(
    environ: dict[str, str], profiling: bool, expected: int
) -> None:
    assert ask(Health(), "/debug/pprof/none", profiling=profiling, **environ)[0] == expected


def test_profiles_are_off_unless_asked_for() -> None:
    local = {"REMOTE_ADDR": "127.0.0.1", "QUERY_STRING": "seconds=0.1"}
    status, body = ask(Health(), "/debug/pprof/profile", **local)
    assert (status, body) == (404, b"nothing here\n")
    assert ask(Health(), "/debug/pprof/profile", profiling=True, **local)[0] == 200
    assert ask(Health(), "/nothing")[0] == 404
    assert ask(Health(), "/healthz", REQUEST_METHOD="POST")[0] == 405
