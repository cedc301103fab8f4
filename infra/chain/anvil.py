"""The node: anvil, a development chain without peers that mines what it is asked to mine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from infra.chain import packages
from infra.chain.errors import NodeRefused
from infra.chain.rpc import Rpc
from infra.embedded import ports
from infra.embedded.engine import Engine

CHAIN_ID = 31_337
"""As anvil's default (getfoundry.sh)."""
_BLOCK_GAS = 10**10  # whatever was sent fits one block


class Anvil(Engine):
    """anvil with ten unlocked accounts of 10,000 native coins each.

    It mines only when it is asked to, and takes transactions in the order of their arrival. After a
    restart the chain is empty: anvil keeps it in memory.
    """

    name: ClassVar[str] = "anvil"
    default_port: ClassVar[int] = 8545
    stop_within_s: ClassVar[float] = 3

    @property
    def http_url(self) -> str:
        """The address for JSON-RPC over HTTP."""
        return f"http://{self.address}"

    @property
    def ws_url(self) -> str:
        """The address for JSON-RPC over a WebSocket."""
        return f"ws://{self.address}"

    @property
    def program(self) -> Path:
        """The program, unpacked from the verified package into the data directory."""
        return self.data / "anvil"

    def prepare(self) -> None:
        """Unpack the program if that has not been done yet. The package must be in the cache."""
        super().prepare()
        if not self.program.exists():
            package = packages.read_lock()[packages.anvil_package()]
            (body,) = packages.read(package, packages.npm_directory(), ["bin/anvil"]).values()
            part = self.program.with_suffix(".part")
            part.write_bytes(body)
            part.chmod(0o700)
            part.rename(self.program)

    def command(self) -> list[str | Path]:
        """Return the program and its arguments."""
        fixed = ["--host", ports.HOST, "--chain-id", str(CHAIN_ID), "--silent"]
        mining = ["--no-mining", "--order", "fifo", "--gas-limit", str(_BLOCK_GAS)]
        return [self.program, "--port", str(self.port), *fixed, *mining]

    def environment(self) -> dict[str, str]:
        """Return the environment; anvil keeps temporary state under HOME."""
        return {**os.environ, "HOME": str(self.data)}

    def ready(self) -> bool:
        """Return whether it answers with its chain id."""
        try:
            with Rpc(self.port) as rpc:
                return int(rpc("eth_chainId"), 16) == CHAIN_ID
        except NodeRefused:
            return False

    def env(self) -> dict[str, str]:
        """Return the variables by which clients find the node."""
        return {"ANVIL_URL": self.http_url, "ANVIL_WS_URL": self.ws_url}
