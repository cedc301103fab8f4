"""The options of `run_source`: a source in a file, or one described on the command line.

Only parses options; opens nothing but the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aggregator.runtime.errors import ConfigError
from sources.config import AnySource, choose, load

EXAMPLES: Final = """\
examples:
  run_source evm --chain ethereum --rpc wss://HOST/KEY --dry-run
        prints the swaps of the newest blocks, one JSON object a line; needs no Kafka
  run_source evm --chain base --rpc-env BASE_RPC
        follows Base; the variable holds addresses of nodes, with commas between
  run_source evm --chain bsc --rpc-env BSC_RPC --name may --from-block 49000000 --to-block 49100000
        reads a range of blocks and ends; its name is its place in the journal
  run_source exchange --venue binance --symbols BTCUSDT,ETHUSDT
        the public trades of two markets
  run_source --config sources.toml --name eth
        a source of a file: see docs/sources.md for its keys

Settings of Kafka, metrics and logs come from the environment. A second process with the same name
stands by. SIGTERM or Ctrl-C stops cleanly and gives the source up immediately.
"""

_OF_A_NODE: Final = ("chain", "preset", "rpc", "rpc_env", "trader", "confirmations")
_OF_EVM: Final = (*_OF_A_NODE, "pools", "from_block", "to_block")
_OF_EXCHANGE: Final = (
    "venue",
    "symbols",
    "assume_par",
    "api_key_env",
    "stream_url",
    "rest_url",
)
_OVER_A_FILE: Final = ("from_block", "to_block", "pools")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of a source."""
    parser.add_argument(
        "kind", nargs="?", choices=["evm", "exchange"], help="what to read, without --config"
    )
    parser.add_argument(
        "--config", dest="file", type=Path, metavar="FILE", help="a TOML file with sources"
    )
    parser.add_argument(
        "--name",
        help="the source of the file; without a file, the name in the journal and in metrics "
        "(default: the chain or the venue)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print events; use no Kafka")
    parser.add_argument("--check", action="store_true", help="print the settings and exit")
    evm = parser.add_argument_group("evm")
    evm.add_argument("--chain", help="the chain's name in events; presets: see docs/sources.md")
    evm.add_argument("--preset", help="the preset to use, if it is not the chain's; or none")
    evm.add_argument(
        "--rpc", action="append", metavar="URL", help="a node, wss:// or https://; again for more"
    )
    evm.add_argument("--rpc-env", metavar="VARIABLE", help="the variable with the nodes' URLs")
    evm.add_argument("--pools", type=_listed, metavar="POOL,…", help="only these pools")
    evm.add_argument("--trader", help="who is the trader: tx_from (default), recipient or none")
    evm.add_argument("--confirmations", type=int, metavar="N", help="blocks to wait; default 0")
    evm.add_argument(
        "--from-block",
        type=_number_or_text,
        metavar="N",
        help="where to begin without a journal: a block, latest (default), -1000 before it",
    )
    evm.add_argument("--to-block", type=int, metavar="N", help="end after this block")
    exchange = parser.add_argument_group("exchange")
    exchange.add_argument("--venue", help="binance, bybit, coinbase, kraken or okx")
    exchange.add_argument("--symbols", type=_listed, metavar="SYMBOL,…", help="the markets")
    exchange.add_argument(
        "--assume-par", type=_listed, metavar="CURRENCY,…", help="currencies that count as 1 USD"
    )
    exchange.add_argument(
        "--api-key-env", metavar="VARIABLE", help="the variable with an API key for past trades"
    )
    exchange.add_argument(
        "--stream-url", metavar="URL", help="the WebSocket in place of the venue's own"
    )
    exchange.add_argument("--rest-url", metavar="URL", help="the same for past trades")


def source_of(options: Mapping[str, Any], environ: Mapping[str, str]) -> AnySource:
    """Return the source that the options describe. Raises ConfigError with every fault."""
    given = {key for key in (*_OF_EVM, *_OF_EXCHANGE) if options[key] is not None}
    if options["file"] is not None:
        wrong = sorted(given - set(_OVER_A_FILE))
        if options["kind"] is not None or wrong:
            over = ", ".join(map(_option, _OVER_A_FILE))
            raise ConfigError(
                [f"--config: the file describes the source; only {over} go with it, and --name"]
            )
        overrides = {key: options[key] for key in given}
        return load(options["file"], options["name"], environ, overrides)
    kind = options["kind"]
    if kind is None:
        raise ConfigError(["give evm, exchange, or --config FILE"])
    own = _OF_EVM if kind == "evm" else _OF_EXCHANGE
    if wrong := sorted(given - set(own)):
        raise ConfigError([f"{_option(each)}: does not belong to {kind}" for each in wrong])
    subject = options["chain"] if kind == "evm" else options["venue"]
    name = options["name"] or subject or kind
    values = {"kind": kind, **{key: options[key] for key in own if key in given}}
    try:
        return choose({"source": {name: values}}, name, environ)
    except ConfigError as error:
        raise ConfigError([_on_the_command_line(fault, name) for fault in error.faults]) from None


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _on_the_command_line(fault: str, name: str) -> str:
    """Return a fault of a file's key as one of an option."""
    place, _, what = fault.partition(": ")
    key = place.removeprefix(f"source.{name}").removeprefix(".") or "name"
    return f"{_option(key)}: {what}"


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _number_or_text(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text
