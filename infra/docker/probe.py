"""`probe.py URL`: exit status 0 where URL answers 200, else 1 and one line. For health checks."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

_TIMEOUT_S = 3


def main(url: str) -> int:
    """The exit status; says on stderr what the answer was, where it was not 200."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S):  # noqa: S310 - the operator's own
            return 0
    except urllib.error.HTTPError as error:
        sys.stderr.write(f"{url}: {error.code} {error.read(500).decode(errors='replace')}\n")
    except OSError as error:
        sys.stderr.write(f"{url}: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
