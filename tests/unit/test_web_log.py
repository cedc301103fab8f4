"""Messages that a web node's libraries log themselves are JSON like the rest of its log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_CODE = """
import daphne.server, warnings
import swapsite.asgi
from twisted.logger import Logger
Logger("daphne.test").critical("a fault of twisted")
warnings.warn("a warning of a library")
import logging
logging.getLogger("asyncio").error("a task failed", exc_info=ValueError("why"))
"""


def test_faults_of_twisted_and_warnings_are_lines_of_json() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", _CODE],
        cwd=Path(__file__).parents[2],
        env={"DJANGO_SECRET_KEY": "x" * 50, "DJANGO_SETTINGS_MODULE": "swapsite.settings",
             "LOG_FORMAT": "json", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert done.stderr == ""
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    for text in ("a fault of twisted", "a warning of a library", "a task failed"):
        assert any(text in each for each in events), events
