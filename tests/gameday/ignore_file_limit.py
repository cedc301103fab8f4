"""Runs a program whose writes fail at a file-size limit, instead of a signal ending it.

    python -I -S ignore_file_limit.py PROGRAM ARGUMENT...

A process over RLIMIT_FSIZE gets SIGXFSZ, which ends it; a full disk sends no signal. The ignored
signal is inherited through exec, and a write then fails with EFBIG.
"""

import os
import signal
import sys

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
os.execvp(sys.argv[1], sys.argv[1:])
