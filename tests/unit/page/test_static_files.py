"""The static files that the page's modules and templates name are served."""

from __future__ import annotations

import re

from api.page.files import release
from tests.unit.page.modules import STATIC


def test_every_module_that_a_module_imports_is_served() -> None:
    files = release().files
    for path in STATIC.glob("*.js"):
        for folder, name in re.findall(r'from "(\.\.?)/(.+?)";', path.read_text()):
            served = f"page/{name}" if folder == "." else name
            assert served in files, f"{path.name} imports {served}"


def test_every_file_of_the_templates_is_served() -> None:
    templates = STATIC.parents[1] / "templates"
    named = {
        name
        for path in templates.rglob("*.html")
        for name in re.findall(r"{% static '(.+?)' %}", path.read_text())
    }
    assert "clients/swaps.js" in named
    assert named <= release().files.keys()
