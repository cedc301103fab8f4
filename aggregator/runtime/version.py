"""The version of the service as operators see it; a test compares it with pyproject.toml."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
