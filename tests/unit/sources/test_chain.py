"""What a chain's settings make its parts do: which logs are asked for, which chain is expected."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from contextlib import suppress

from prometheus_client import REGISTRY

from sources.chain import report_prices, settings_of, wanted_of
from sources.chain_config import ChainConfig, preset
from sources.evm.types import ChainIdentity, PoolSwap, Token
from sources.metrics import SourceMetrics
from sources.options import add_options, source_of
from sources.pricing.pricer import Pricer
from sources.pricing.trusted import Trusted


def config(*options: str) -> ChainConfig:
    parser = ArgumentParser()
    add_options(parser)
    arguments = ["evm", "--chain", "base", "--rpc", "ws://a", *options]
    found = source_of(vars(parser.parse_args(arguments)), {})
    assert isinstance(found, ChainConfig)
    return found


def test_all_pools_need_no_addresses() -> None:
    wanted = wanted_of(config())
    assert wanted.addresses == ()
    assert len(wanted.topics) >= 5


def test_chosen_pools_are_read_with_those_that_price_them() -> None:
    references = preset("base").trusted.reference_pools
    pool = "0x" + "a" * 40
    assert set(wanted_of(config("--pools", pool)).addresses) == references | {pool}
    pool_of_v4 = "0x" + "b" * 64
    managers = {each.address for each in preset("base").factories if "v4" in each.kind}
    wanted = wanted_of(config("--pools", pool_of_v4)).addresses
    assert managers | references <= set(wanted)
    assert pool_of_v4 not in wanted


def test_the_loop_gets_the_chain_and_its_range() -> None:
    settings = settings_of(config("--from-block", "5", "--to-block", "9", "--trader", "none"))
    assert settings.chain == ChainIdentity(8453, preset("base").genesis)
    assert (settings.from_block, settings.to_block, settings.senders) == (5, 9, False)


async def test_reference_prices_are_metrics() -> None:
    weth, usdc = Token("0xweth", "WETH", 18), Token("0xusdc", "USDC", 6)
    trusted = Trusted(
        frozenset({"0xusdc"}), frozenset({"0xweth"}), frozenset(), frozenset({"a", "b"})
    )
    pricer, metrics = Pricer(trusted), SourceMetrics("prices", "evm", "base")

    async def reported() -> float | None:
        with suppress(TimeoutError):
            await asyncio.wait_for(report_prices(pricer, "0xweth", metrics), 0.01)
        labels = {"source": "prices", "token": "0xweth"}
        return REGISTRY.get_sample_value("swaps_source_reference_price", labels)

    assert await reported() is None
    assert metrics.status().unpriced_tokens == ["0xweth"]
    for at_s, pool in ((1_700_000_000, "a"), (1_700_000_000, "b"), (1_700_000_001, "a")):
        traded = PoolSwap("v", pool, weth, usdc, 10**18, -3_000 * 10**6, "0x1", 0, None)
        pricer.price(traded, at_s)
    assert await reported() == 3_000
    assert metrics.status().unpriced_tokens == []
