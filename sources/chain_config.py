"""The settings of a source of an EVM chain, with the presets of known chains.

A chain with a preset (`presets/*.toml`) has its factories, trusted tokens and reference pools from
there; a file adds factories and replaces the lists of trusted tokens.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args
from urllib.parse import urlsplit

from aggregator.runtime.errors import ConfigError
from sources.evm.swaps import Trader
from sources.evm.types import NATIVE
from sources.evm.venues import Kind, PoolFactory
from sources.pricing.trusted import Trusted
from sources.tables import TomlTable, choice, from_environment, hint, pattern, shown, whole

PRESETS: Final = Path(__file__).parent / "presets"
_CHAIN: Final = pattern(r"[a-z0-9][a-z0-9-]{0,31}", "a chain such as ethereum")
_VENUE: Final = pattern(r"[a-z0-9][a-z0-9.-]{0,63}", "a name such as uniswap-v3")
_NODES: Final = ("wss", "ws", "https", "http")
_LARGEST_BLOCK: Final = 2**53

FromBlock = int | Literal["latest"]


@dataclass(frozen=True)
class ChainConfig:
    """A source of one EVM chain; addresses, hashes and pool ids are lower-case.

    `chain_id` and `genesis` are None where the chain has no preset and the file names none.
    `from_block` is where a source without a journal begins: a number below 0 counts back from the
    head. `to_block` is the last block of a backfill, None to follow the chain. `pools` is empty for
    all pools of the factories. `wrapped_native` is the token that the native coin counts as.
    """

    name: str
    chain: str
    rpc: tuple[str, ...] = field(repr=False)
    chain_id: int | None
    genesis: str | None
    confirmations: int
    keep_blocks: int
    trader: Trader
    factories: tuple[PoolFactory, ...]
    pools: frozenset[str]
    trusted: Trusted
    wrapped_native: str
    from_block: FromBlock = "latest"
    to_block: int | None = None


@dataclass(frozen=True)
class Preset:
    """What is known of a chain; the default is a chain of which nothing is known."""

    chain_id: int | None = None
    genesis: str | None = None
    keep_blocks: int = 256
    factories: tuple[PoolFactory, ...] = ()
    trusted: Trusted = field(default_factory=Trusted)
    wrapped_native: str = ""


def presets() -> list[str]:
    """Return the chains that have a preset."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


@cache
def preset(chain: str) -> Preset:
    """Return the preset of a chain, that of an unknown chain for `none`."""
    if chain == "none":
        return Preset()
    faults: list[str] = []
    text = (PRESETS / f"{chain}.toml").read_text(encoding="utf-8")
    table = TomlTable(chain, tomllib.loads(text), faults)
    found = _preset(table, Preset())
    table.finish()
    if faults:
        raise ConfigError(faults)
    return found


def evm_source(name: str, table: TomlTable, environ: Mapping[str, str] | None) -> ChainConfig:
    """Return the source that a table describes and report its faults to the table.

    Without `environ` the variable of `rpc_env` stays unread.
    """
    chain = table.get("chain", "", _CHAIN)
    if not table.has("chain"):
        table.fault("chain", "is missing: name the chain as its events should, such as ethereum")
    default = chain if chain in presets() else "none"
    known = _preset(table, preset(table.get("preset", default, choice("none", *presets()))))
    source = ChainConfig(
        name=name,
        chain=chain,
        rpc=_rpc(table, environ),
        chain_id=known.chain_id,
        genesis=known.genesis,
        confirmations=table.get("confirmations", 0, whole(0, 100_000)),
        keep_blocks=known.keep_blocks,
        trader=cast(Trader, table.get("trader", "tx_from", choice(*get_args(Trader)))),
        factories=known.factories,
        pools=_pools(table),
        trusted=known.trusted,
        wrapped_native=known.wrapped_native,
        from_block=table.get("from_block", "latest", _from_block),
        to_block=table.get("to_block", None, whole(0, _LARGEST_BLOCK)),
    )
    _check(table, source)
    table.finish()
    return source


def url_of(schemes: tuple[str, ...], value: Any) -> str:
    """Return an address. Raises ValueError without the value, which may hold a key."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        usable = parts is not None and parts.scheme in schemes and bool(parts.hostname)
        usable = usable and parts is not None and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"is not an address of {', '.join(f'{each}://' for each in schemes)}")
    return str(value)


def _preset(table: TomlTable, known: Preset) -> Preset:
    """Return what a table says of a chain, on top of what is known."""
    trusted = table.table("trusted")
    wrapped = trusted.get("native", known.wrapped_native, _address)
    found = Preset(
        chain_id=table.get("chain_id", known.chain_id, whole(1, _LARGEST_BLOCK)),
        genesis=table.get("genesis", known.genesis, _hash),
        keep_blocks=table.get("keep_blocks", known.keep_blocks, whole(16, 100_000)),
        factories=(*known.factories, *map(_factory, table.tables("factory"))),
        trusted=_trusted(trusted, known.trusted, wrapped),
        wrapped_native=wrapped,
    )
    trusted.finish()
    return found


def _trusted(table: TomlTable, known: Trusted, wrapped: str) -> Trusted:
    def listed(key: str, default: frozenset[str], parse: Callable[[Any], str]) -> frozenset[str]:
        given = table.texts(key, parse)
        return default if given is None else frozenset(given)

    found = Trusted(
        stables=listed("stable", known.stables, _address),
        natives=frozenset({wrapped, NATIVE}) if wrapped else frozenset(),
        majors=listed("major", known.majors, _address),
        reference_pools=listed("reference_pools", known.reference_pools, _pool),
    )
    ranks = {"stable": found.stables, "native": found.natives, "major": found.majors}
    for first, second in (("stable", "native"), ("stable", "major"), ("native", "major")):
        for token in sorted(ranks[first] & ranks[second]):
            table.fault(second, f"{token} is in {first} too: a token has one rank")
    return found


def _factory(table: TomlTable) -> PoolFactory:
    kind = cast(Kind, table.get("kind", "", choice(*get_args(Kind))))
    found = PoolFactory(
        venue=table.get("venue", "", _VENUE),
        kind=kind,
        address=table.get("address", "", _address),
        pools=table.texts("pools", _address) or (),
        positions=table.get("positions", None, _address),
    )
    for key in ("venue", "kind", "address"):
        if not table.has(key) and not (key == "address" and kind == "curve" and found.pools):
            table.fault(key, "is missing")
    for key, owner in (("pools", "curve"), ("positions", "v4")):
        if table.has(key) and kind != owner:
            table.fault(key, f"belongs to a factory of kind {owner}")
    table.finish()
    return found


def _check(table: TomlTable, source: ChainConfig) -> None:
    """Report settings that are missing or contradict each other."""
    trusted = source.trusted
    missing = [
        key
        for key, enough in (
            ("factory", source.factories),
            ("trusted.native", source.wrapped_native),
            ("trusted.stable", trusted.stables),
            ("trusted.reference_pools", len(trusted.reference_pools) > 1),
        )
        if not enough
    ]
    if source.chain and missing:
        known = presets()
        near = "" if source.chain in known else hint(source.chain, known)
        table.fault(
            "chain",
            f"{shown(source.chain)} needs {', '.join(missing)} (two reference pools or more); "
            f"chains with a preset need none: {', '.join(known)}{near}",
        )
    if source.to_block is None:
        return
    if isinstance(source.from_block, str):
        table.fault("to_block", "needs from_block: a backfill has a first block too")
    elif source.to_block < source.from_block:
        table.fault("to_block", f"{source.to_block} is below from_block {source.from_block}")


def _pools(table: TomlTable) -> frozenset[str]:
    given = table.texts("pools", lambda value: value if value == "all" else _pool(value)) or ()
    if "all" in given and len(given) > 1:
        table.fault("pools", 'give "all" or a list of pools, not both')
    return frozenset(given) - {"all"}


def _rpc(table: TomlTable, environ: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return the addresses of the nodes, from the file or from a variable of the environment."""
    if table.has("rpc") == table.has("rpc_env"):
        table.fault("rpc", 'give addresses such as ["wss://…"], or rpc_env, and not both')
    found = list(table.texts("rpc", partial(url_of, _NODES)) or ())
    for url in from_environment(table, "rpc_env", environ):
        try:
            found.append(url_of(_NODES, url))
        except ValueError as error:
            table.fault("rpc_env", f"the variable {error}")
    return tuple(found)


def _address(value: Any) -> str:
    return pattern("0x[0-9a-fA-F]{40}", "an address of 0x and 40 hex digits")(value).lower()


def _pool(value: Any) -> str:
    what = "a pool: an address, or 0x and 64 hex digits where one contract holds many pools"
    return pattern("0x([0-9a-fA-F]{40}|[0-9a-fA-F]{64})", what)(value).lower()


def _hash(value: Any) -> str:
    return pattern("0x[0-9a-fA-F]{64}", "a block hash of 0x and 64 hex digits")(value).lower()


def _from_block(value: Any) -> FromBlock:
    if value == "latest":
        return "latest"
    if type(value) is not int or abs(value) > _LARGEST_BLOCK:
        raise ValueError(f"{shown(value)} is not a block number, -1000 or latest")
    return value
