"""The settings of sources: what they say, and that every fault is named with its remedy."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from eth_hash.auto import keccak

from aggregator.runtime.errors import ConfigError
from sources.chain_config import PRESETS, ChainConfig, preset, presets
from sources.config import choose, load
from sources.evm.types import NATIVE
from sources.exchange.config import ExchangeSource

ETH = """
[source.eth]
kind = "evm"
chain = "ethereum"
rpc_env = "ETH_RPC"
"""
OWN = """
[source.own]
kind = "evm"
chain = "testnet"
rpc = ["ws://127.0.0.1:8545"]
chain_id = 31337
confirmations = 2
trader = "recipient"
pools = ["0x00000000000000000000000000000000000000AA"]
from_block = -1000
[[source.own.factory]]
venue = "uniswap-v2"
kind = "v2"
address = "0x00000000000000000000000000000000000000BB"
[source.own.trusted]
native = "0x00000000000000000000000000000000000000C1"
stable = ["0x00000000000000000000000000000000000000C2"]
reference_pools = [
    "0x00000000000000000000000000000000000000D1",
    "0x00000000000000000000000000000000000000D2",
]
"""
KNOWN = "chains with a preset need none: arbitrum, base, bsc, ethereum, polygon"
SECRET = "wss://rpc.example/v2/SECRET"


def read(text: str, name: str | None = None, **environ: str) -> ChainConfig | ExchangeSource:
    return choose(tomllib.loads(text), name, environ)


def faults(text: str, name: str | None = None, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(text, name, **environ)
    return raised.value.faults


def test_a_chain_with_a_preset_needs_only_a_node() -> None:
    source = read(ETH, ETH_RPC=f"{SECRET}, https://other.example")
    assert isinstance(source, ChainConfig)
    assert source.rpc == (SECRET, "https://other.example")
    assert (source.name, source.chain_id, source.keep_blocks) == ("eth", 1, 256)
    assert source.wrapped_native == "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"
    assert source.trusted.natives == {source.wrapped_native, NATIVE}
    assert (source.trader, source.confirmations, source.pools) == ("tx_from", 0, frozenset())
    assert (source.from_block, source.to_block) == ("latest", None)
    assert "SECRET" not in repr(source)


def test_a_chain_of_its_own() -> None:
    source = read(OWN)
    assert isinstance(source, ChainConfig)
    assert (source.chain_id, source.genesis, source.confirmations) == (31337, None, 2)
    assert source.pools == {"0x00000000000000000000000000000000000000aa"}
    assert [factory.venue for factory in source.factories] == ["uniswap-v2"]
    assert source.from_block == -1000


def test_a_file_adds_factories_and_replaces_trusted_lists() -> None:
    more = """
    [[source.eth.factory]]
    venue = "mine"
    kind = "curve"
    pools = ["0x00000000000000000000000000000000000000AA"]
    [source.eth.trusted]
    stable = ["0x00000000000000000000000000000000000000C2"]
    """
    source, plain = read(ETH + more, ETH_RPC=SECRET), preset("ethereum")
    assert isinstance(source, ChainConfig)
    assert source.factories[:-1] == plain.factories
    assert source.factories[-1].pools == ("0x00000000000000000000000000000000000000aa",)
    assert source.trusted.stables == {"0x00000000000000000000000000000000000000c2"}
    assert source.trusted.majors == plain.trusted.majors


def test_an_exchange() -> None:
    text = """
    [source.binance]
    kind = "exchange"
    venue = "binance"
    symbols = ["BTCUSDT", "ETH/USDT", "BTCUSDT"]
    assume_par = ["USDT"]
    rest_url = "http://127.0.0.1:9000"
    api_key_env = "BINANCE_KEY"
    """
    source = read(text, BINANCE_KEY="SECRET")
    assert isinstance(source, ExchangeSource)
    assert source.symbols == ("BTCUSDT", "ETH/USDT")
    assert (source.assume_par, source.api_key) == (("USDT",), "SECRET")
    assert (source.urls.stream, source.urls.rest) == ("", "http://127.0.0.1:9000")
    assert "SECRET" not in repr(source)


def test_one_file_holds_several_sources() -> None:
    both = ETH + OWN
    assert read(both, "own").name == "own", "the other source's variable is not needed"
    assert faults(both) == ["several sources: choose one with --name: eth, own"]
    assert faults(both, "ehth") == ["no source 'ehth' among eth, own; did you mean eth?"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", ["no source: write a table such as [source.eth]"], id="empty"),
        pytest.param(
            ETH.replace("[source.eth]", "[sources.eth]"),
            ["no source: write a table such as [source.eth]"],
            id="another table",
        ),
        pytest.param(ETH, ["source.eth.rpc_env: ETH_RPC is not set"], id="no variable"),
        pytest.param(
            ETH.replace('"evm"', '"emv"'),
            ["source.eth.kind: 'emv' is none of evm, exchange; did you mean evm?"],
            id="kind",
        ),
        pytest.param(
            ETH + "confirmation = 3\n",
            [
                "source.eth.rpc_env: ETH_RPC is not set",
                "source.eth.confirmation: unknown key; did you mean confirmations?",
            ],
            id="unknown key",
        ),
        pytest.param(
            OWN.replace("31337", '"31337"').replace("= 2", "= -1").replace("-1000", '"newest"'),
            [
                "source.own.chain_id: '31337' is not a whole number from 1 to 9007199254740992",
                "source.own.confirmations: -1 is not a whole number from 0 to 100000",
                "source.own.from_block: 'newest' is not a block number, -1000 or latest",
            ],
            id="numbers",
        ),
        pytest.param(
            OWN.replace("BB", "B").replace("D2", "XX"),
            [
                "source.own.factory[0].address: '0x00000000000000000000000000000000000000B' is not "
                "an address of 0x and 40 hex digits",
                "source.own.trusted.reference_pools[1]: "
                "'0x00000000000000000000000000000000000000XX' is not a pool: an address, or 0x and "
                "64 hex digits where one contract holds many pools",
                "source.own.chain: 'testnet' needs trusted.reference_pools (two reference pools or "
                f"more); {KNOWN}",
            ],
            id="addresses",
        ),
        pytest.param(
            OWN.replace("C2", "C1"),
            [
                "source.own.trusted.native: 0x00000000000000000000000000000000000000c1 is in "
                "stable too: a token has one rank"
            ],
            id="one rank",
        ),
        pytest.param(
            OWN.replace('kind = "v2"', 'kind = "v2"\npositions = "0x1"'),
            [
                "source.own.factory[0].positions: '0x1' is not an address of 0x and 40 hex digits",
                "source.own.factory[0].positions: belongs to a factory of kind v4",
            ],
            id="a key of another kind",
        ),
        pytest.param(
            OWN.replace("from_block = -1000", "from_block = 9\nto_block = 8"),
            ["source.own.to_block: 8 is below from_block 9"],
            id="backfill ends before it begins",
        ),
        pytest.param(
            OWN.replace("from_block = -1000", "to_block = 8"),
            ["source.own.to_block: needs from_block: a backfill has a first block too"],
            id="backfill without a beginning",
        ),
        pytest.param(
            '[source.x]\nkind = "evm"\nchain = "etherium"\nrpc = "ws://a"\nfactory = 3\n',
            [
                "source.x.factory: is not an array of tables: write [[source.x.factory]]",
                "source.x.chain: 'etherium' needs factory, trusted.native, trusted.stable, "
                "trusted.reference_pools (two reference pools or more); "
                f"{KNOWN}; did you mean ethereum?",
            ],
            id="a chain without a preset",
        ),
        pytest.param(
            '[source.b]\nkind = "exchange"\nvenue = "binnance"\n',
            [
                "source.b.venue: 'binnance' is none of binance, bybit, coinbase, kraken, okx; "
                "did you mean binance?",
                'source.b.symbols: name at least one market, such as ["BTCUSDT"]',
            ],
            id="exchange",
        ),
    ],
)
def test_every_fault_is_named(text: str, expected: list[str]) -> None:
    assert faults(text) == expected


@pytest.mark.parametrize("url", ["htps://x/SECRET", "wss:///SECRET", "https://h:99999/SECRET"])
def test_no_message_shows_an_address_of_a_node(url: str) -> None:
    for found in (
        faults(ETH, ETH_RPC=url),
        faults(ETH.replace('rpc_env = "ETH_RPC"', f'rpc = ["{url}"]')),
    ):
        assert "SECRET" not in "".join(found)
        assert "is not an address of wss://, ws://, https://, http://" in found[0]


def test_faults_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sources.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path, None, {})
    path.write_text("[source.eth\n")
    with pytest.raises(ConfigError, match=r"sources\.toml: is not TOML: .*line 1"):
        load(path, None, {})
    path.write_text(ETH)
    with pytest.raises(ConfigError, match=r"sources\.toml: source\.eth\.rpc_env"):
        load(path, None, {})
    assert load(path, "eth", {"ETH_RPC": SECRET}).name == "eth"


def bytes_of(address: str) -> bytes:
    return bytes.fromhex(address[2:])


def checksummed(address: str) -> str:
    """EIP-55."""
    digits = address[2:].lower()
    shown = keccak(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(of, 16) > 7 else digit
        for digit, of in zip(digits, shown, strict=False)
    )


@pytest.mark.parametrize("chain", presets())
def test_every_address_of_a_preset_has_its_checksum(chain: str) -> None:
    text = (PRESETS / f"{chain}.toml").read_text()
    addresses = re.findall(r'"(0x[0-9a-fA-F]+)"', text)
    wrong = [each for each in addresses if len(each) == 42 and each != checksummed(each)]
    assert not wrong
    assert len(addresses) > 15
    found = preset(chain)
    assert found.genesis is not None
    assert found.chain_id is not None
    assert len({factory.venue for factory in found.factories}) == len(found.factories)


# Who creates the pools of a venue (its factory, where it does not say otherwise) and Keccak-256 of
# their creation code, from the venues' published periphery contracts and SDKs.
UNISWAP_V2 = "96e8ac4277198ff8b6f785478aa9a39f403cb768dd02cbee326c3e7da348845f"
UNISWAP_V3 = "e34f199b19b2b4f47f68442619d555527d244f78a3297ea89325f843f87b8b54"
CREATORS = {
    "uniswap-v2": (None, UNISWAP_V2),
    "quickswap-v2": (None, UNISWAP_V2),
    "pancakeswap-v2": (None, "00fb7f630766e6a796048ea87d01acd3068e8ff67d078148a3fa3f4a84f69bd5"),
    "uniswap-v3": (None, UNISWAP_V3),
    "pancakeswap-v3": (
        "0x41ff9AA7e16B8B1a8a8dc4f0eFacd93D02d071c9",
        "6ce8eb472fa82df5469c6ab6d485f17c3ad13c8cd7af59b3d4a8026c5ce0f7e2",
    ),
    "camelot-v3": (
        "0x6Dd3FB9653B10e806650F107C3B5A0a6fF974F65",
        "6c1bebd370ba84753516bc1393c0d0a6c645856da55f5393ac8ab3d6dbc861d3",
    ),
    "quickswap-v3": (
        "0x2D98E2FA9da15aa6dC9581AB097Ced7af697CB92",
        "6ec6c9c8091d160c0aa74b2b14ba9c1717e95093bd3ac085cee99a49aab294a4",
    ),
    "aerodrome-v2": (None, "0xA4e46b4f701c62e14DF11B48dCe76A7d793CD6d7"),
    "aerodrome-slipstream": (None, "0xeC8E5342B19977B4eF8892e02D8DAEcfa1315831"),
}


def creation_code(of: str) -> bytes:
    """The hash itself, or that of the minimal proxy (ERC-1167) of an implementation."""
    if not of.startswith("0x"):
        return bytes.fromhex(of)
    proxy = "3d602d80600a3d3981f3363d3d373d3d3d363d73", "5af43d82803e903d91602b57fd5bf3"
    return keccak(bytes.fromhex(proxy[0]) + bytes_of(of) + bytes.fromhex(proxy[1]))


def created(venue: str, factory: str, kind: str, pair: tuple[str, str]) -> set[str]:
    """The addresses (CREATE2) of the pools of a pair at every usual fee or tick spacing."""
    creator, code = CREATORS[venue]
    tokens = sorted(map(bytes_of, pair))
    words = b"".join(token.rjust(32, b"\0") for token in tokens)
    salts = {
        "v2": [b"".join(tokens)],
        "solidly": [b"".join(tokens) + bytes([stable]) for stable in (0, 1)],
        "algebra": [words],
    }.get(kind, [words + key.to_bytes(32, "big") for key in (1, 50, 100, 200, 500, 2500, 3000)])
    prefix = b"\xff" + bytes_of(creator or factory)
    return {"0x" + keccak(prefix + keccak(salt) + creation_code(code))[12:].hex() for salt in salts}


@pytest.mark.parametrize("chain", presets())
def test_the_reference_pools_of_a_preset_are_pools_of_its_factories(chain: str) -> None:
    """Each is where a factory creates the pool of two trusted tokens, one of them a stable."""
    found = preset(chain)
    trusted = found.trusted
    tokens = trusted.stables | trusted.majors | {found.wrapped_native}
    by_pool: dict[str, set[str]] = {}
    for factory in found.factories:
        if factory.venue in CREATORS:
            for stable in trusted.stables:
                for token in tokens - {stable}:
                    pair = stable, token
                    for pool in created(factory.venue, factory.address, factory.kind, pair):
                        by_pool.setdefault(pool, set()).add(token)
    unknown = trusted.reference_pools - by_pool.keys()
    curve_3pool = "0xbebc44782c7db0a1a60cb6fe97d0b483032ff1c7"
    assert unknown == ({curve_3pool} if chain == "ethereum" else set())
    prices_native = [
        p for p in trusted.reference_pools if found.wrapped_native in by_pool.get(p, ())
    ]
    assert len(prices_native) >= 3
