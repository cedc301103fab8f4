"""The decorator that compiles all loops over arrays.

Pure: it knows numba, and nothing of what it compiles.
"""

from __future__ import annotations

from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """Compile `function` to machine code that runs without the GIL, cached between starts.

    A helper, whose name begins with `_`, is inlined into its callers: a call would pass every array
    and count its references.
    """
    inside = function.__name__.startswith("_")
    return njit(cache=True, nogil=True, forceinline=inside)(function)
