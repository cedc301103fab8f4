"""Evaluates expressions over the page's modules in node, without a browser."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.client_processes import node

STATIC = Path(__file__).parents[3] / "api" / "page" / "static" / "page"


def evaluate(module: str, expression: str, zone: str = "UTC") -> Any:
    """Return the value of a JavaScript expression in which `m` is the module."""
    script = (
        f"const m = await import({json.dumps((STATIC / module).as_uri())});"
        f"console.log(JSON.stringify({expression}));"
    )
    done = subprocess.run(
        [*node(), "--no-warnings", "--input-type=module", "--eval", script],
        env=os.environ | {"TZ": zone},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
