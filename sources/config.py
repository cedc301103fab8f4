"""The settings of sources: a TOML file, or the options of a command, checked as a whole.

`docs/sources.md` describes the keys. Addresses of nodes hold secrets: they appear in no message.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from aggregator.runtime.errors import ConfigError
from sources.chain_config import ChainConfig, evm_source, url_of
from sources.exchange.config import ExchangeSource, ExchangeUrls
from sources.exchange.venues import VENUES
from sources.tables import TomlTable, choice, from_environment, hint, pattern, shown

NAME: Final = r"[a-z0-9][a-z0-9-]{0,31}"

AnySource = ChainConfig | ExchangeSource


def load(
    path: Path,
    name: str | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> AnySource:
    """Return the source `name` of a TOML file; without a name, the only one.

    `overrides` replace keys of that source. Raises ConfigError with the faults of all sources, but
    reads only the environment variables of this one.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: is not TOML: {error}"]) from error
    try:
        return choose(document, name, environ, overrides)
    except ConfigError as error:
        raise ConfigError([f"{path}: {fault}" for fault in error.faults]) from None


def choose(
    document: Mapping[str, Any],
    name: str | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> AnySource:
    """Return one source of a parsed document, see `load`."""
    named = document.get("source", {})
    if not isinstance(named, dict) or not named:
        raise ConfigError(["no source: write a table such as [source.eth]"])
    faults = [
        f"{key}: unknown key: the tables of sources are [source.NAME]"
        for key in document
        if key != "source"
    ]
    if name is None and len(named) > 1:
        faults.append(f"several sources: choose one with --name: {', '.join(named)}")
    elif name is not None and name not in named:
        faults.append(f"no source {shown(name)} among {', '.join(named)}{hint(name, named)}")
    chosen = name or (next(iter(named)) if len(named) == 1 else None)
    found: AnySource | None = None
    for each, values in named.items():
        if each != chosen:
            _source(each, values, None, faults)
        else:
            given = {**values, **(overrides or {})} if isinstance(values, dict) else values
            found = _source(each, given, environ, faults)
    if faults or found is None:
        raise ConfigError(faults)
    return found


def _source(
    name: str, values: Any, environ: Mapping[str, str] | None, faults: list[str]
) -> AnySource | None:
    """Return a source, None where its kind is unknown. Without `environ` secrets stay unread."""
    place = f"source.{name}"
    if not isinstance(values, dict):
        faults.append(f"{place}: {shown(values)} is not a table: write [{place}]")
        return None
    table = TomlTable(place, values, faults)
    try:
        pattern(NAME, "a name of lower-case letters, digits and '-', up to 32")(name)
    except ValueError as error:
        table.fault("", str(error))
    kind = table.get("kind", "", choice("evm", "exchange"))
    if not table.has("kind"):
        table.fault("kind", "is missing: give evm or exchange")
    if kind == "evm":
        return evm_source(name, table, environ)
    return _exchange(name, table, environ) if kind == "exchange" else None


def _exchange(name: str, table: TomlTable, environ: Mapping[str, str] | None) -> ExchangeSource:
    venue = table.get("venue", "", choice(*sorted(VENUES)))
    if not table.has("venue"):
        table.fault("venue", f"is missing: give one of {', '.join(sorted(VENUES))}")
    market = pattern(r"[A-Za-z0-9._:/-]{2,40}", "a market such as BTCUSDT or BTC/USDT")
    symbols = table.texts("symbols", market) or ()
    if not symbols:
        table.fault("symbols", 'name at least one market, such as ["BTCUSDT"]')
    par = table.texts("assume_par", pattern("[A-Z0-9]{2,12}", "a currency such as USDT")) or ()
    stream = table.get("stream_url", "", partial(url_of, ("wss", "ws")))
    rest = table.get("rest_url", "", partial(url_of, ("https", "http")))
    api_key = "".join(from_environment(table, "api_key_env", environ))
    table.finish()
    return ExchangeSource(name, venue, symbols, par, ExchangeUrls(stream, rest), api_key)
