"""schemathesis against a running site, as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

CHECKS: Final = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,unsupported_method,"
    "allow_header_conformance,ignored_auth"
)


def fuzz(
    described: Path, url: str, token: str, within_s: int, *options: str
) -> subprocess.CompletedProcess[str]:
    """Run all phases for `within_s` seconds on what the file describes; the output is the text."""
    return subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "run", described,
            "--url", url, "--header", f"Authorization:Bearer {token}",
            "--checks", CHECKS, "--phases", "examples,coverage,fuzzing",
            "--seed", "7", "--workers", "1", "--no-color",
            "--generation-database", "none", "--max-time", str(within_s), *options,
        ],
        check=False,
        cwd=described.parent,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name}
        | {"SCHEMATHESIS_HOOKS": str(Path(__file__).with_name("fuzzing_hooks.py"))},
        capture_output=True,
        text=True,
        timeout=within_s + 90,
    )  # fmt: skip
