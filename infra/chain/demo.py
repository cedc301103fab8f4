"""`make demo-chain`: the embedded stack, the service, a chain with traders, and a source on it.

The chain's parts run as the service's processes do: whichever is killed starts again. The source is
the service's own command, given a configuration file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from infra.chain import packages
from infra.chain.anvil import Anvil
from infra.chain.rpc import Rpc
from infra.chain.source_toml import CHAIN, source_toml
from infra.chain.traders import BLOCK_S, REORGANISE_S
from infra.chain.world import World, deploy
from infra.embedded import demo
from infra.embedded.engine import Process
from infra.embedded.run import Options, Steps, run
from infra.embedded.stack import Stack

WORLD_FILE: Final = "world.json"
CONFIG_FILE: Final = "sources.toml"


def run_demo(directory: Path) -> int:
    """Run everything until Ctrl-C; return the exit status."""
    packages.ensure(packages.needed(), packages.npm_directory(), Steps())
    ports: dict[str, int | None] = {}
    return run(
        Options(directory, ports, service=True, fresh=True, engines=(Anvil,), play=_play_chain)
    )


def _play_chain(
    stack: Stack, service: demo.Service, report: Callable[[str], None]
) -> Sequence[str]:
    begun = time.monotonic()
    (anvil,) = (engine for engine in stack.engines if isinstance(engine, Anvil))
    with Rpc(anvil.port) as rpc:
        world = deploy(rpc, packages.npm_directory()).world
    written = stack.directory / WORLD_FILE
    written.write_bytes(msgspec.json.encode(world))
    config = stack.directory / CONFIG_FILE
    config.write_text(source_toml(world, [anvil.ws_url]))
    pools = len(world.v2) + len(world.v3) + 1
    report(f"Uniswap v2, v3 and v4 with {pools} pools deployed, {time.monotonic() - begun:.1f} s")
    service.add(
        "source",
        [sys.executable, "manage.py", "run_source", "--config", str(config), "--name", CHAIN],
        _runs("reading the chain after {after}; what it missed is read, repeats count once"),
    )
    service.add(
        "traders",
        [sys.executable, "-m", "infra.chain", "trade", str(anvil.port), str(written)],
        _runs("trading after {after}"),
    )
    report("source and traders started")
    return _lines(stack, service, anvil, world, config)


def _runs(sentence: str) -> Callable[[Process], str | None]:
    def proof(process: Process) -> str | None:
        return sentence if process.running and process.written() else None

    return proof


def _lines(
    stack: Stack, service: demo.Service, anvil: Anvil, world: World, config: Path
) -> Sequence[str]:
    weth = f"{CHAIN}:{world.tokens['WETH']}"
    return (
        f"Chain     {anvil.http_url}, a block every {BLOCK_S:.0f} s, "
        f"a reorganisation every {REORGANISE_S:.0f} s",
        f"Source    {config}",
        f"Traders   {stack.directory / 'log' / 'traders.log'}",
        f"WETH      {service.web_url}/tokens/{weth}",
    )
