"""The version of the service, as operators see it; the one of pyproject.toml (a test compares)."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
