"""A chain for tests: anvil with the demo's contracts, pools and traders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from infra.chain import packages
from infra.chain.anvil import Anvil
from infra.chain.errors import MissingNpm
from infra.chain.rpc import Rpc
from infra.chain.world import Deployed, World, deploy
from infra.embedded.stack import Stack


class RunningChain(NamedTuple):
    """A running node, a connection to it, and what is deployed on it."""

    node: Anvil
    rpc: Rpc
    deployed: Deployed

    @property
    def world(self) -> World:
        """The addresses."""
        return self.deployed.world


def require_packages() -> None:
    """Fetch the packages if necessary. Without npm the test is skipped; with CI=true it fails."""
    try:
        packages.ensure(packages.needed(), packages.npm_directory(), print)
    except MissingNpm as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))


@contextmanager
def running_chain(directory: Path) -> Iterator[RunningChain]:
    """Run a node with a deployed world inside `with`."""
    require_packages()
    with Stack(directory, only=(Anvil,), min_free_bytes=0) as running:
        (node,) = (each for each in running.engines if isinstance(each, Anvil))
        with Rpc(node.port) as rpc:
            yield RunningChain(node, rpc, deploy(rpc, packages.npm_directory()))
