"""The version of the service that operators see. A test compares it with pyproject.toml."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
