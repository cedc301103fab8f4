"""The settings of a source as `run_source --check` prints them: TOML, without secrets. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from sources.chain_config import ChainConfig
from sources.config import AnySource
from sources.evm.venues import PoolFactory
from sources.exchange.config import ExchangeSource


def described(source: AnySource) -> str:
    """Return the settings that a source runs with, those of its preset included."""
    lines = _chain(source) if isinstance(source, ChainConfig) else _exchange(source)
    return "\n".join(lines)


def _exchange(source: ExchangeSource) -> Iterator[str]:
    yield f"[source.{source.name}]"
    yield 'kind = "exchange"'
    yield f'venue = "{source.venue}"'
    yield f"symbols = {_texts(source.symbols)}"
    yield f"assume_par = {_texts(source.assume_par)}"
    for key, value in (("stream_url", source.urls.stream), ("rest_url", source.urls.rest)):
        if value:
            yield f'{key} = "{without_secrets(value)}"'
    if source.api_key:
        yield "# an API key is set"


def _chain(source: ChainConfig) -> Iterator[str]:
    name = f"source.{source.name}"
    yield f"[{name}]"
    yield 'kind = "evm"'
    yield f'chain = "{source.chain}"'
    yield f"rpc = {_texts(map(without_secrets, source.rpc))} # without paths and passwords"
    for key, value in (("chain_id", source.chain_id), ("genesis", source.genesis)):
        yield f"# {key}: that of the nodes" if value is None else f"{key} = {json.dumps(value)}"
    yield f"confirmations = {source.confirmations}"
    yield f"keep_blocks = {source.keep_blocks}"
    yield f'trader = "{source.trader}"'
    yield f"pools = {_texts(sorted(source.pools)) if source.pools else json.dumps('all')}"
    yield f"from_block = {json.dumps(source.from_block)}"
    if source.to_block is not None:
        yield f"to_block = {source.to_block}"
    for factory in source.factories:
        yield f"[[{name}.factory]]"
        yield from _factory(factory)
    trusted = source.trusted
    yield f"[{name}.trusted]"
    yield f'native = "{source.wrapped_native}"'
    yield f"stable = {_texts(sorted(trusted.stables))}"
    yield f"major = {_texts(sorted(trusted.majors))}"
    yield f"reference_pools = {_texts(sorted(trusted.reference_pools))}"


def _factory(factory: PoolFactory) -> Iterator[str]:
    yield f'venue = "{factory.venue}"'
    yield f'kind = "{factory.kind}"'
    if factory.address:
        yield f'address = "{factory.address}"'
    if factory.pools:
        yield f"pools = {_texts(factory.pools)}"
    if factory.positions:
        yield f'positions = "{factory.positions}"'


def without_secrets(url: str) -> str:
    """Return the scheme, host and port of an address; the rest may hold a key."""
    parts = urlsplit(url)
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{parts.hostname}{port}"


def _texts(values: Iterable[str]) -> str:
    return json.dumps(list(values))
