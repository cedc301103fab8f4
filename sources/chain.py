"""Assembles the source of a chain: nodes, reader, pricer and the loop that follows the chain."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Final

from sources.chain_config import ChainConfig
from sources.evm.nodes import RpcNodes
from sources.evm.ports import LogFilter
from sources.evm.reader import PoolSelection, SwapReader
from sources.evm.rpc import RpcNode, transport
from sources.evm.source import EvmSource, FollowSettings
from sources.evm.types import ChainIdentity
from sources.evm.venues import topics_of
from sources.metrics import SourceMetrics
from sources.ports import SourceJournal, SourceSink
from sources.pricing.pricer import Pricer

_REPORT_S: Final = 1.0
_HOLDS_MANY_POOLS: Final = frozenset({"v4", "balancer-v2"})
_ADDRESS_LENGTH: Final = 42


async def follow_chain(
    config: ChainConfig, sink: SourceSink, journal: SourceJournal, metrics: SourceMetrics
) -> None:
    """Own the journal, then send the chain's swaps until cancelled or `to_block` is sent.

    Raises Fatal where the source cannot go on without a person, Fenced where the ownership is lost.
    """
    metrics.state("standby")
    entries = await journal.own()
    nodes = nodes_of(config, metrics)
    try:
        await _follow(config, nodes, entries, sink=sink, journal=journal, metrics=metrics)
    finally:
        await nodes.close()


async def _follow(
    config: ChainConfig,
    nodes: RpcNodes,
    entries: Mapping[str, bytes],
    *,
    sink: SourceSink,
    journal: SourceJournal,
    metrics: SourceMetrics,
) -> None:
    pricer = Pricer(config.trusted)
    reader = SwapReader(
        config.chain,
        config.factories,
        wrapped_native=config.wrapped_native,
        order=config.trusted,
        pricer=pricer,
        calls=nodes,
        tally=metrics,
        trader=config.trader,
        selection=PoolSelection(config.pools, config.trusted.reference_pools),
        finder=nodes,
    )
    source = EvmSource(
        settings_of(config),
        nodes=nodes,
        reader=reader,
        journal=journal,
        sink=sink,
        metrics=metrics,
    )
    async with asyncio.TaskGroup() as group:
        reporting = group.create_task(report_prices(pricer, config.wrapped_native, metrics))
        await source.run(entries)
        reporting.cancel()


def nodes_of(config: ChainConfig, metrics: SourceMetrics) -> RpcNodes:
    """Return the RPC endpoints of a source; nothing connects yet."""
    carriers = [transport(url, number) for number, url in enumerate(config.rpc, start=1)]
    return RpcNodes(
        [RpcNode(carrier, metrics.call) for carrier in carriers],
        complain=partial(metrics.state, "waiting"),
    )


def settings_of(config: ChainConfig) -> FollowSettings:
    """Return which blocks and logs the loop of a source reads."""
    chain = None
    if config.chain_id is not None:
        chain = ChainIdentity(config.chain_id, config.genesis)
    return FollowSettings(
        name=config.name,
        wanted=wanted_of(config),
        chain=chain,
        from_block=config.from_block,
        to_block=config.to_block,
        confirmations=config.confirmations,
        keep=config.keep_blocks,
        senders=config.trader == "tx_from",
    )


def wanted_of(config: ChainConfig) -> LogFilter:
    """Return the logs to ask for: of all pools, or of the chosen and the reference pools."""
    topics = topics_of(config.factories)
    if not config.pools:
        return LogFilter(topics)
    pools = config.pools | config.trusted.reference_pools
    addresses = {pool for pool in pools if len(pool) == _ADDRESS_LENGTH}
    if len(addresses) < len(pools):
        # The others are pools inside these contracts.
        addresses |= {each.address for each in config.factories if each.kind in _HOLDS_MANY_POOLS}
    return LogFilter(topics, tuple(sorted(addresses)))


async def report_prices(pricer: Pricer, wrapped_native: str, metrics: SourceMetrics) -> None:
    """Keep the metrics of the reference prices up to date."""
    held: Counter[str] = Counter()
    while True:
        for token, found in pricer.references(wrapped_native).items():
            metrics.reference(token, found.usd, found.newest_s)
            for _ in range(found.held - held[token]):
                metrics.held(token)
            held[token] = found.held
        await asyncio.sleep(_REPORT_S)
