"""`manage.py compile_engine`: compiles the loops of aggregator and archiver ahead of time."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand

from aggregator.archiving.archiver import compile_archiver
from aggregator.counting.process import compile_aggregator


class Command(BaseCommand):
    """Fills numba's cache."""

    help = (
        "Compiles the loops of aggregator and archiver into numba's cache (beside the code, "
        "or in NUMBA_CACHE_DIR), so that the first start of run_aggregator or run_archiver does "
        "not have to. Takes some twenty seconds once, tenths of a second after that. For image "
        "builds."
    )
    requires_system_checks = ()

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Compile, and print how long it took."""
        began = time.perf_counter()
        compile_aggregator()
        compile_archiver()
        self.stdout.write(f"engine compiled, {time.perf_counter() - began:.1f} s")
