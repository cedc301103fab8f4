"""Fault points: an armed point acts at the pass that was given, a disarmed one never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aggregator.runtime import faults
from aggregator.runtime.errors import ConfigError

PASSES = """
from aggregator.runtime import faults
faults.install({spec!r})
for number in range(1, 6):
    print(number, flush=True)
    faults.point("after_apply")
    faults.point("after_judge")
"""


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.install("")


def run(spec: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PASSES.format(spec=spec)], stdout=subprocess.PIPE, text=True
    )


def test_the_process_is_killed_at_the_pass_that_was_named() -> None:
    process = run("after_judge:3")
    output, _ = process.communicate(timeout=20)
    assert output.split() == ["1", "2", "3"]
    assert process.returncode == -signal.SIGKILL


def test_a_stopped_process_continues_when_it_is_woken() -> None:
    process = run("after_apply:2:stop")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=20)
    assert output.split() == ["1", "2", "3", "4", "5"]
    assert process.returncode == 0


def test_nothing_happens_at_another_point_or_disarmed() -> None:
    faults.install("mid_snapshot:1")
    faults.point("after_snapshot")
    faults.install("")
    faults.point("mid_snapshot")


@pytest.mark.parametrize("spec", ["nowhere:1", "after_judge", "after_judge:x", "after_judge:1:run"])
def test_an_unknown_fault_is_refused_with_the_known_names(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"SWAPS_FAULT.*after_judge, after_apply"):
        faults.install(spec)
