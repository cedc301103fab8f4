"""The command line of a source, what it prints, and its dry run."""

from __future__ import annotations

import io
import json
import tomllib
from argparse import ArgumentParser
from dataclasses import replace as with_fields
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from msgspec.structs import replace

from aggregator.contracts.sources import SourceStatus
from aggregator.runtime.errors import ConfigError
from sources.chain_config import ChainConfig
from sources.config import AnySource, choose
from sources.description import described, without_secrets
from sources.dry_run import PrintingSink
from sources.events import SwapEvent, encode, retraction
from sources.exchange.config import ExchangeSource
from sources.options import add_options, source_of
from sources.progress import SourceProgress

RPC = "wss://user:PASSWORD@rpc.example:8443/v2/SECRET"


def source(*arguments: str, **environ: str) -> AnySource:
    parser = ArgumentParser()
    add_options(parser)
    return source_of(vars(parser.parse_args(arguments)), environ)


def test_a_chain() -> None:
    found = source(
        "evm", "--chain", "base", "--rpc", RPC, "--rpc", "https://b", "--from-block", "-9"
    )
    assert isinstance(found, ChainConfig)
    assert (found.name, found.chain_id, found.from_block) == ("base", 8453, -9)
    assert found.rpc == (RPC, "https://b")
    found = source(
        "evm", "--chain", "base", "--rpc-env", "NODES", "--name", "b", NODES="ws://a,ws://b"
    )
    assert isinstance(found, ChainConfig)
    assert (found.name, found.rpc, found.from_block) == ("b", ("ws://a", "ws://b"), "latest")


def test_an_exchange() -> None:
    found = source("exchange", "--venue", "kraken", "--symbols", "BTC/USD, ETH/USD")
    assert isinstance(found, ExchangeSource)
    assert (found.name, found.symbols) == ("kraken", ("BTC/USD", "ETH/USD"))


def test_a_file_with_another_range(tmp_path: Path) -> None:
    path = tmp_path / "sources.toml"
    path.write_text('[source.b]\nkind = "evm"\nchain = "base"\nrpc = "ws://a"\nfrom_block = 1\n')
    found = source("--config", str(path), "--from-block", "5", "--to-block", "7")
    assert isinstance(found, ChainConfig)
    assert (found.from_block, found.to_block) == (5, 7)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["give evm, exchange, or --config FILE"]),
        (
            ["evm", "--chain", "etherium", "--from-block", "x", "--venue", "kraken"],
            ["--venue: does not belong to evm"],
        ),
        (
            ["evm", "--from-block", "x"],
            [
                "--chain: is missing: name the chain as its events should, such as ethereum",
                '--rpc: give addresses such as ["wss://…"], or rpc_env, and not both',
                "--from-block: 'x' is not a block number, -1000 or latest",
            ],
        ),
        (
            ["exchange", "--venue", "okx", "--symbols", "BTC-USDT", "--name", "OKX"],
            ["--name: 'OKX' is not a name of lower-case letters, digits and '-', up to 32"],
        ),
        (
            ["--config", "a.toml", "--chain", "base"],
            [
                "--config: the file describes the source; only --from-block, --to-block, --pools "
                "go with it, and --name"
            ],
        ),
    ],
)
def test_faults_name_the_options(arguments: list[str], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        source(*arguments)
    assert raised.value.faults == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ("evm", "--chain", "ethereum", "--rpc", RPC, "--from-block", "5", "--to-block", "9"),
        ("evm", "--chain", "polygon", "--rpc", RPC, "--pools", "0x" + "a" * 64),
        ("exchange", "--venue", "binance", "--symbols", "BTCUSDT", "--assume-par", "USDT"),
    ],
)
def test_check_prints_what_a_file_would_say(arguments: tuple[str, ...]) -> None:
    found = source(*arguments)
    text = described(found)
    assert "SECRET" not in text
    assert "PASSWORD" not in text
    values = tomllib.loads(text)
    for each in values["source"].values():
        each.setdefault("preset", "none") if each["kind"] == "evm" else None
    again = choose(values, None, {})
    if isinstance(found, ChainConfig):
        found = with_fields(found, rpc=tuple(map(without_secrets, found.rpc)))
    assert again == found


def test_check_opens_nothing() -> None:
    out = io.StringIO()
    call_command("run_source", "evm", "--chain", "base", "--rpc", RPC, "--check", stdout=out)
    assert 'rpc = ["wss://rpc.example:8443"]' in out.getvalue()
    with pytest.raises(CommandError, match=r"--chain: 'bse' needs .* did you mean base\?"):
        call_command("run_source", "evm", "--chain", "bse", "--rpc", RPC, "--check")


async def test_a_dry_run_prints_a_line_for_each_event() -> None:
    event = SwapEvent("base", "0x1", 2, 1_700_000_000_000, "0xa", "buy", "1.5")
    out = io.BytesIO()
    await PrintingSink(out).send([encode(event), retraction(encode(event))])
    added, removed = map(json.loads, out.getvalue().splitlines())
    assert added["amount"] == "1.5"
    assert removed == {**added, "removed": True}


def test_progress() -> None:
    progress = SourceProgress(5_000)
    status = SourceStatus("eth", "evm", "ethereum", "starting", 1_000)
    assert progress.line(status) == "starting"
    status = replace(status, state="catching_up", head=9_000, sent_block=1_000)
    assert progress.line(status) == "block 1,000 of 5,000  0 events"
    later = replace(
        status, state="waiting", note="429", as_of=3_000, sent_block=3_000, events=4_000
    )
    line = "block 3,000 of 5,000  4,000 events  1,000 blocks/s  2 s left  waiting: 429"
    assert progress.line(later) == line
    assert SourceProgress(None).line(later).startswith("block 3,000 of 9,000")


def test_the_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command("run_source", "--help")
    assert "run_source --config sources.toml --name eth" in capsys.readouterr().out
