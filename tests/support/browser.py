"""Chromium for tests, by Playwright's driver; Playwright's own download is not needed."""

from __future__ import annotations

import os
import shutil

import pytest

# The headless shell first: two thirds of the full browser's CPU draw windows that nobody sees.
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_ADVICE = (
    "no Chromium: apt-get install chromium-headless-shell, or set CHROMIUM to a browser's path"
)


def chromium() -> str:
    """Return the browser's path. Without one the test is skipped; with CI=true it fails."""
    named = os.environ.get("CHROMIUM")
    for name in (named,) if named else _NAMES:
        if path := shutil.which(name):
            return path
    if os.environ.get("CI") == "true":
        pytest.fail(_ADVICE)
    pytest.skip(_ADVICE)
