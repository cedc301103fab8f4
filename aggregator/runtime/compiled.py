"""The one way in which loops over arrays are compiled.

Pure: knows numba and nothing of what is compiled.
"""

from __future__ import annotations

from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """`function` in machine code, without the interpreter's lock, cached between starts.

    A helper (its name begins with `_`) is put into its callers: a call would hand over every
    array and count its references.
    """
    inside = function.__name__.startswith("_")
    return njit(cache=True, nogil=True, forceinline=inside)(function)
