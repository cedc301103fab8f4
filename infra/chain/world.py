"""What stands on the chain: tokens, Uniswap v2, v3 and v4, pools, and traders with balances.

One native coin is worth 3,000 USD in every pool at the start. Some tokens are hostile: they answer
calls for their metadata in ways that a source must survive. A contract forges swap events.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from infra.chain import artifacts, bytecode
from infra.chain.contracts import Contract, Transaction, created, deployment, send, topic
from infra.chain.rpc import Rpc

USD: Final = 10**6
"""A dollar in the smallest units of USDC and USDT."""
COIN: Final = 10**18
"""A native coin in wei; also a whole token of 18 decimals."""
NATIVE_USD: Final = 3_000
NATIVE: Final = "0x" + "00" * 20
NEVER: Final = 2**40
"""A deadline that no block reaches, in seconds."""

_MOST: Final = 2**256 - 1
_TRADERS: Final = 8
_MASKED: Final[dict[str, bytecode.Answers]] = {
    # As MKR: a symbol of 32 bytes in place of a text.
    "BYTES32": {"symbol()": b"BYTES32".ljust(32, b"\0"), "name()": b"Bytes".ljust(32, b"\0")},
    "REVERTS": {"symbol()": bytecode.REVERT, "name()": bytecode.REVERT},
    "EMPTY": {"symbol()": b"", "name()": b""},
    "NODEC": {"symbol()": b"NODEC".ljust(32, b"\0"), "decimals()": bytecode.REVERT},
}
_FORGED: Final = "Swap(address,uint256,uint256,uint256,uint256,address)"
_V2_EVENT: Final = topic(_FORGED)


class PoolKey(NamedTuple):
    """What names a pool of Uniswap v4 (v4-core, PoolKey.sol); the currencies are sorted."""

    currency0: str
    currency1: str
    fee: int
    tick_spacing: int
    hooks: str = NATIVE


class World(msgspec.Struct, frozen=True):
    """The contracts of a chain by our names for them, and its accounts.

    `owner` deployed everything and provides the liquidity. `v2` maps "A/B" to a pair's address,
    `v3` "A/B" to a pool's. Tokens are named by their symbol, or by what is wrong with them.
    """

    owner: str
    traders: list[str]
    tokens: dict[str, str]
    contracts: dict[str, str]
    v2: dict[str, str]
    v3: dict[str, str]
    v4: PoolKey
    first_block: int

    @property
    def reference_pools(self) -> list[str]:
        """The pools whose trades set the price of the native coin."""
        return [self.v2["WETH/USDC"], self.v2["WETH/USDT"], self.v3["WETH/USDC"]]


class Deployed:
    """A world with the ABIs of its contracts, for whoever sends transactions to it."""

    def __init__(self, world: World, abis: dict[str, dict[str, Any]]) -> None:
        self.world = world
        self._abis = abis

    def contract(self, name: str) -> Contract:
        """Return a contract by its name in `World.contracts`."""
        return Contract(self.world.contracts[name], self._abis[name]["abi"])

    def token(self, name: str) -> Contract:
        """Return a token by its name in `World.tokens`."""
        kind = {"WETH": "weth", "TAX": "deflating_token"}.get(name, "token")
        return Contract(self.world.tokens[name], self._abis[kind]["abi"])

    def pair(self, name: str) -> Contract:
        """Return a v2 pair by its name in `World.v2`."""
        return Contract(self.world.v2[name], self._abis["v2_pair"]["abi"])


def deploy(rpc: Rpc, directory: Path) -> Deployed:
    """Deploy the world on an empty chain; the packages must be in `directory`.

    Raises NodeRefused if a transaction reverts.
    """
    return _Builder(rpc, artifacts.load(directory)).build()


def attach(world: World, directory: Path) -> Deployed:
    """Return the deployed form of a world that another process has deployed."""
    return Deployed(world, artifacts.load(directory))


class _Builder:
    def __init__(self, rpc: Rpc, found: dict[str, dict[str, Any]]) -> None:
        self._rpc = rpc
        self._artifacts = found
        self._owner, *others = rpc("eth_accounts")
        self._traders = others[:_TRADERS]
        self._tokens: dict[str, str] = {}
        self._contracts: dict[str, str] = {}

    def build(self) -> Deployed:
        """Deploy contracts, tokens and pools, and fund the traders."""
        self._deploy_contracts()
        self._deploy_tokens()
        self._approve([self._owner, *self._traders])
        self._fund()
        v2, v3, v4 = dict(self._v2_pools()), dict(self._v3_pools()), self._v4_pool()
        self._contracts["forger"] = self._deploy_forger()
        world = World(
            self._owner,
            self._traders,
            self._tokens,
            self._contracts,
            v2,
            v3,
            v4,
            int(self._rpc("eth_blockNumber"), 16),
        )
        return Deployed(world, self._artifacts)

    def _create(self, name: str, *arguments: object) -> str:
        made = deployment(self._owner, self._artifacts[name], *arguments)
        return created(send(self._rpc, [made]))[0]

    def _deploy_contracts(self) -> None:
        self._tokens["WETH"] = weth = self._create("weth")
        made = self._contracts
        made["v2_factory"] = self._create("v2_factory", self._owner)
        made["v2_router"] = self._create("v2_router", made["v2_factory"], weth)
        made["v3_factory"] = self._create("v3_factory")
        made["v3_router"] = self._create("v3_router", made["v3_factory"], weth)
        made["v3_positions"] = self._create("v3_positions", made["v3_factory"], weth, NATIVE)
        made["v4_manager"] = self._create("v4_manager", self._owner)
        for name in ("v4_router", "v4_positions"):
            made[name] = self._create(name, made["v4_manager"])

    def _deploy_tokens(self) -> None:
        for name, symbol, decimals in (
            ("USDC", "USDC", 6),
            ("USDT", "USDT", 6),
            ("MEME", "MEME", 18),
            ("ZERO", "ZERO", 0),
            ("BIDI", "EV\u202eLI\n<script>", 18),
        ):
            self._tokens[name] = self._create("token", f"{name} token", symbol, decimals)
        self._tokens["TAX"] = self._create("deflating_token", 10**12 * COIN)
        for name, answers in _MASKED.items():
            code = bytecode.mask(answers, self._tokens["MEME"])
            made = Transaction(self._owner, None, code)
            self._tokens[name] = created(send(self._rpc, [made]))[0]

    def _token(self, name: str) -> Contract:
        kind = {"WETH": "weth", "TAX": "deflating_token"}.get(name, "token")
        return Contract(self._tokens[name], self._artifacts[kind]["abi"])

    def _at(self, name: str) -> Contract:
        return Contract(self._contracts[name], self._artifacts[name]["abi"])

    def _approve(self, holders: list[str]) -> None:
        spenders = ("v2_router", "v3_router", "v3_positions", "v4_router", "v4_positions")
        send(
            self._rpc,
            [
                self._token(token).transact(holder, "approve", self._contracts[each], _MOST)
                for holder in holders
                for token in self._tokens
                for each in spenders
            ],
        )

    def _fund(self) -> None:
        owner, moves = self._owner, []
        for name, token in ((name, self._token(name)) for name in self._tokens):
            for holder in [owner, *self._traders]:
                mine = 10**9 if holder == owner else 10**6
                if name == "WETH":
                    moves.append(token.transact(holder, "deposit", value=mine // 10**6 * 5 * COIN))
                elif name != "TAX":
                    whole = USD if name in {"USDC", "USDT"} else COIN
                    moves.append(token.transact(owner, "mint", holder, 10**4 * mine * whole))
                elif holder != owner:
                    moves.append(token.transact(owner, "transfer", holder, 10**7 * COIN))
        send(self._rpc, moves)

    def _v2_pools(self) -> Iterator[tuple[str, str]]:
        """Make the v2 pairs; amounts are in the smallest units."""
        native_usd = NATIVE_USD * USD
        pairs: list[tuple[str, int, int]] = [
            ("WETH/USDC", 500 * COIN, 500 * native_usd),
            ("WETH/USDT", 300 * COIN, 300 * native_usd),
            ("WETH/MEME", 100 * COIN, 10**9 * COIN),
            ("MEME/USDC", 10**8 * COIN, 30_000 * USD),
            ("WETH/TAX", 50 * COIN, 10**8 * COIN),
            ("MEME/TAX", 10**6 * COIN, 10**6 * COIN),  # no token of it has a trusted price
            ("ZERO/USDC", 10**6 * COIN, 10**6 * USD),
            *((f"WETH/{name}", 10 * COIN, 10**6 * COIN) for name in ("BIDI", *_MASKED)),
        ]
        router, factory = self._at("v2_router"), self._at("v2_factory")
        for name, amount_a, amount_b in pairs:
            a, b = (self._tokens[token] for token in name.split("/"))
            given = (a, b, amount_a, amount_b, 0, 0, self._owner, NEVER)
            send(self._rpc, [router.transact(self._owner, "addLiquidity", *given)])
            yield name, factory.read(self._rpc, "getPair", a, b).lower()

    def _v3_pools(self) -> Iterator[tuple[str, str]]:
        positions, factory = self._at("v3_positions"), self._at("v3_factory")
        for name, fee, spacing, amount_a, amount_b in (
            ("WETH/USDC", 500, 10, 500 * COIN, 500 * NATIVE_USD * USD),
            ("MEME/WETH", 10_000, 200, 10**9 * COIN, 100 * COIN),
        ):
            a, b = (self._tokens[token] for token in name.split("/"))
            sides = sorted([(a, amount_a), (b, amount_b)])  # lower-case addresses sort as numbers
            (token0, amount0), (token1, amount1) = sides
            low = -(887_272 // spacing) * spacing
            price = sqrt_price(amount0, amount1)
            given = (token0, token1, fee, low, -low, amount0, amount1, 0, 0, self._owner, NEVER)
            pool = (token0, token1, fee, price)
            send(
                self._rpc,
                [
                    positions.transact(self._owner, "createAndInitializePoolIfNecessary", *pool),
                    positions.transact(self._owner, "mint", given),
                ],
            )
            yield name, factory.read(self._rpc, "getPool", token0, token1, fee).lower()

    def _v4_pool(self) -> PoolKey:
        key = PoolKey(NATIVE, self._tokens["USDC"], 3_000, 60)
        amount0, amount1 = 200 * COIN, 200 * NATIVE_USD * USD
        liquidity = math.isqrt(amount0 * amount1)
        position = (-887_220, 887_220, liquidity, b"\0" * 32)
        manager, positions = self._at("v4_manager"), self._at("v4_positions")
        send(
            self._rpc,
            [
                manager.transact(self._owner, "initialize", key, sqrt_price(amount0, amount1)),
                positions.transact(
                    self._owner, "modifyLiquidity", key, position, b"", value=amount0 + COIN
                ),
            ],
        )
        return key

    def _deploy_forger(self) -> str:
        pretended = {
            "token0()": _word(self._tokens["WETH"]),
            "token1()": _word(self._tokens["USDC"]),
            "factory()": _word(self._contracts["v2_factory"]),
        }
        code = bytecode.forger(pretended, _V2_EVENT)
        return created(send(self._rpc, [Transaction(self._owner, None, code)]))[0]


def sqrt_price(amount0: int, amount1: int) -> int:
    """Return the square root of amount1 / amount0 as a Q64.96 number, as v3 and v4 store prices."""
    return math.isqrt((amount1 << 192) // amount0)


def _word(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address.removeprefix("0x"))
