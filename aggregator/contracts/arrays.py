"""The type of numpy arrays in signatures; docstrings state dtype and shape."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
