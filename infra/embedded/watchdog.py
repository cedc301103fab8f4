"""The process that ends a process group when the process that feeds its standard input is gone.

Run as a script, as the leader of the group that it guards. A pipe closes however its owner ends,
kill -9 included, so nothing of the group outlives the owner. Imports only the standard library.
"""

import os
import signal


def main() -> None:
    """Wait for the end of standard input, then kill the group, this process included."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
