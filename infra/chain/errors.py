"""Errors of the chain; every message says what the reader can do about it."""

from __future__ import annotations

from infra.embedded.errors import EmbeddedError


class MissingNpm(EmbeddedError):
    """The npm client is not installed, and a package is not in the cache."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"npm was not found, which fetches {package} the first time. Install Node.js with npm "
            "(Debian and Ubuntu: apt-get install npm; macOS: brew install node), then start again"
        )


class BadPackage(EmbeddedError):
    """A package's hash differs from the lock file, or a file is missing in it."""


class NoAnvil(EmbeddedError):
    """There is no build of anvil for this machine."""

    def __init__(self, system: str, machine: str) -> None:
        super().__init__(
            f"there is no build of anvil for {system} on {machine}: it exists for Linux and macOS "
            "on x86-64 and arm64"
        )


class NodeRefused(EmbeddedError):
    """The node answered a call with an error, or a transaction reverted."""
