"""The process that kills a process group when the owner of its standard input ends.

Runs as a script, as the leader of the group that it guards. The kernel closes a pipe however its
owner ends, kill -9 included, so no process of the group outlives the owner. Imports only the
standard library.
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
