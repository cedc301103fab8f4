"""Every text colour of the page is readable on every background (WCAG 2.2, 1.4.3)."""

from __future__ import annotations

import re

import pytest

from tests.unit.page.modules import STATIC

LEAST = 4.5
TEXTS = ("text", "text-2", "up", "down")
BACKGROUNDS = ("page", "surface", "raised", "flash-up", "flash-down")
_TOKEN = re.compile(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)")
COLOURS = {
    name: {"light": light, "dark": dark}
    for name, light, dark in _TOKEN.findall((STATIC / "base.css").read_text())
}


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("text", TEXTS)
def test_contrast(text: str, background: str, scheme: str) -> None:
    found = sorted(luminance(COLOURS[name][scheme]) for name in (text, background))
    assert (found[1] + 0.05) / (found[0] + 0.05) >= LEAST
