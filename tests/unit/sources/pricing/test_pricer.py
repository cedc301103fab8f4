"""USD of a chain's swaps: the rules, and attacks on pools whose arithmetic is computed here."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR
from decimal import Decimal as D

import pytest

from sources.evm.types import NATIVE, PoolSwap, Token
from sources.pricing.pricer import Priced, Pricer
from sources.pricing.trusted import Rank, Trusted

WETH, USDC, USDT = Token("0xweth", "WETH", 18), Token("0xusdc", "USDC", 6), Token("0xusdt", "", 6)
COIN, WBTC = Token(NATIVE, "ETH", 18), Token("0xwbtc", "WBTC", 8)
MEME, LIAR, MUTE = Token("0xmeme", "MEME", 18), Token("0xliar", "L", 0), Token("0xmute", "M", None)
TRUSTED = Trusted(
    stables=frozenset({USDC.address, USDT.address}),
    natives=frozenset({WETH.address, COIN.address}),
    majors=frozenset({WBTC.address}),
    reference_pools=frozenset({"a", "b", "c", "peg1", "peg2", "btc1", "btc2", "weth-meme"}),
)
T0 = 1_700_000_000


def swap(pool: str, token0: Token, amount0: int, token1: Token, amount1: int) -> PoolSwap:
    """A swap of a pool; the other fields do not matter to its price."""
    return PoolSwap("venue", pool, token0, token1, amount0, amount1, "0x1", 0, None)


def eth(amount: str) -> int:
    return int(D(amount).scaleb(18))


@dataclass
class Pool:
    """A constant-product pool of Uniswap v2, with its fee of 0.3 % (getAmountOut)."""

    name: str
    token0: Token
    token1: Token
    reserve0: int
    reserve1: int

    def sell0(self, amount: int) -> PoolSwap:
        """Sell `amount` of token0 to the pool."""
        paid = amount * 997
        out = paid * self.reserve1 // (self.reserve0 * 1000 + paid)
        self.reserve0, self.reserve1 = self.reserve0 + amount, self.reserve1 - out
        return swap(self.name, self.token0, amount, self.token1, -out)


class Market:
    """Three reference pools of 500 ETH at 3,000 USD that trade a little each second."""

    def __init__(self) -> None:
        self.pricer = Pricer(TRUSTED)
        self.now = T0
        self.pools = {
            name: Pool(name, WETH, quote, eth("500"), 1_500_000 * 10**6)
            for name, quote in (("a", USDC), ("b", USDT), ("c", USDC))
        }
        self.tick(5)

    def tick(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            for pool in self.pools.values():
                self.pricer.price(pool.sell0(eth("0.05")), self.now)

    def price(self, traded: PoolSwap) -> Priced:
        return self.pricer.price(traded, self.now)

    def pay_with_eth(self, amount: str) -> Priced:
        """Buy MEME with ETH, a second later, in a pool that nobody trusts."""
        self.now += 1
        return self.price(swap("meme", WETH, eth(amount), MEME, -eth("1000000")))


def test_a_swap_is_worth_its_trusted_leg() -> None:
    said = Market().pay_with_eth("0.1")
    assert said.usd is not None
    assert D("298.5") < said.usd < D("299.2")
    assert said.sets_price
    assert said.reason == ""


def test_400_eth_dumped_into_one_pool_move_nothing() -> None:
    market = Market()
    dump = market.pools["a"].sell0(eth("400"))
    said = market.price(dump)
    assert said == Priced(D(-dump.amount1).scaleb(-6), False, "legs_disagree"), "the smaller leg"
    assert said.usd is not None
    assert D(660_000) < said.usd < D(670_000)
    later = market.pay_with_eth("1")
    assert later.usd is not None
    assert D(2980) < later.usd < D(2995)


def test_two_dumps_of_a_third_are_held() -> None:
    market = Market()
    for name in "ab":
        market.price(market.pools[name].sell0(eth("300")))
    for _ in range(40):
        market.tick(1)
    said = market.pay_with_eth("1")
    assert said.usd is not None
    assert D(2950) < said.usd < D(2995)
    assert market.pricer.reference(WETH.address, market.now).held > 0


@pytest.mark.parametrize(
    ("traded", "expected"),
    [
        pytest.param(
            swap("thin", MEME, eth("1000"), Token("0xt", "T", 18), -eth("1")),
            Priced(None, False, "no_trusted_leg"),
            id="two tokens that nobody trusts",
        ),
        pytest.param(
            swap("weth-meme", MEME, eth("1000"), Token("0xt", "T", 18), -eth("1")),
            Priced(None, False, "no_trusted_leg"),
            id="not even in a reference pool",
        ),
        pytest.param(
            swap("p", USDC, 1_000 * 10**6, MUTE, -1),
            Priced(D(1_000), True, ""),
            id="against a token without decimals",
        ),
        pytest.param(
            swap("p", USDC, -29_900_000, LIAR, 10**24),
            Priced(D("29.9"), True, ""),
            id="against a token that says 0 decimals",
        ),
        pytest.param(
            swap("p", Token(WETH.address, "WETH", None), 1, MEME, -1),
            Priced(None, False, "no_trusted_leg"),
            id="a trusted token whose decimals are unknown",
        ),
        pytest.param(
            swap("p", USDC, 100 * 10**6, USDT, -98 * 10**6),
            Priced(D(98), True, ""),
            id="two stables: the smaller",
        ),
        pytest.param(
            swap("p", USDC, 999_999, MEME, -1),
            Priced(D("0.999999"), False, "dust"),
            id="dust has its value and sets no price",
        ),
        pytest.param(
            swap("p", USDC, 10**6, MEME, -1), Priced(D(1), True, ""), id="1 USD sets a price"
        ),
        pytest.param(
            swap("p", WBTC, 10**8, MEME, -1),
            Priced(None, False, "no_reference_price"),
            id="a major without reference pools",
        ),
    ],
)
def test_rules(traded: PoolSwap, expected: Priced) -> None:
    assert Market().price(traded) == expected


def test_the_native_coin_and_its_wrapping_are_one_asset() -> None:
    market = Market()
    wrapped = market.pay_with_eth("2")
    assert market.price(swap("v4", COIN, eth("2"), MEME, -1)).usd == wrapped.usd


def test_a_pool_that_is_not_named_prices_nothing() -> None:
    market = Market()
    before = market.pay_with_eth("1").usd
    for name in ("x", "y", "z"):
        market.price(swap(name, WETH, eth("100"), USDC, -600_000 * 10**6))
    assert market.pay_with_eth("1").usd == before


def test_a_swap_prices_only_later_blocks() -> None:
    market = Market()
    before = market.pay_with_eth("1").usd
    for pool in market.pools.values():
        market.price(pool.sell0(eth("30")))
    same = market.price(swap("meme", WETH, eth("1"), MEME, -1)).usd
    assert same == before
    assert market.pay_with_eth("1").usd != before


def test_without_reference_swaps_the_price_ends() -> None:
    market = Market()
    market.now += 20 * 60
    assert market.pay_with_eth("0.1") == Priced(None, False, "no_reference_price")
    stable_leg = market.price(market.pools["c"].sell0(eth("0.1")))
    assert stable_leg.usd is not None, "its stable leg is known"
    assert market.pay_with_eth("0.1").usd is not None


def test_a_major_has_its_own_pools() -> None:
    market = Market()
    for pool in ("btc1", "btc2"):
        market.price(swap(pool, WBTC, 10**7, USDC, -6_000 * 10**6))
    market.now += 1
    assert market.price(swap("p", WBTC, 10**8, MEME, -1)).usd == D(60_000)


def peg_trades(pricer: Pricer, cents: int, *pools: str) -> None:
    """USDC at `cents` of USDT in the pools."""
    for second in range(5):
        for pool in pools:
            pricer.price(swap(pool, USDC, 10**9, USDT, -cents * 10**7), T0 + second)


@pytest.mark.parametrize(
    ("cents", "pools", "usdc"),
    [
        pytest.param(99, ("peg1", "peg2"), D(1), id="1 % off: 1"),
        pytest.param(97, ("peg1", "peg2"), D("0.97"), id="3 % off: the median"),
        pytest.param(97, ("peg1",), D("0.97"), id="one pool may say up to 10 %"),
        pytest.param(80, ("peg1", "peg2"), D("0.8"), id="20 %, two agree"),
        pytest.param(80, ("peg1",), D(1), id="20 %, one pool: held"),
        pytest.param(104, ("peg1", "peg2"), D(1), id="above 1: the other one fell"),
    ],
)
def test_a_stable_is_1_unless_its_pools_say_it_fell(
    cents: int, pools: tuple[str, ...], usdc: D
) -> None:
    pricer = Pricer(TRUSTED)
    peg_trades(pricer, cents, *pools)
    assert pricer.price(swap("p", USDC, 100 * 10**6, MEME, -1), T0 + 9).usd == 100 * usdc
    other = pricer.price(swap("p", USDT, 100 * 10**6, MEME, -1), T0 + 9).usd
    assert other == (D(100) if cents <= 102 else pytest.approx(D(10_000) / cents))


def test_a_fallen_stable_does_not_lift_the_native_coin() -> None:
    market = Market()
    market.pools["b"] = market.pools.pop("c")
    pricer = Pricer(TRUSTED)
    peg_trades(pricer, 80, "peg1", "peg2")
    for pool in ("a", "c"):  # USDC pools show 3,750 for what is worth 3,000
        pricer.price(swap(pool, WETH, eth("1"), USDC, -3_750 * 10**6), T0 + 10)
    assert pricer.price(swap("p", WETH, eth("1"), MEME, -1), T0 + 11).usd == D(3_000)


def test_observing_after_a_restart_says_what_pricing_said() -> None:
    market, restarted = Market(), Pricer(TRUSTED)
    seen = []
    for second in range(1, 40):
        for pool in market.pools.values():
            traded = pool.sell0(eth(str(second)))
            market.pricer.price(traded, T0 + second)
            seen.append((traded, T0 + second))
    for traded, at in seen:
        restarted.observe(traded, at)
    fair = swap("meme", WETH, eth("1"), MEME, -1)
    assert restarted.price(fair, T0 + 41) == market.pricer.price(fair, T0 + 41)
    assert restarted.price(fair, T0 + 41).usd is not None


def test_a_block_time_that_goes_back_counts_as_the_last() -> None:
    market = Market()
    before = market.pay_with_eth("1")
    assert market.pricer.price(swap("m", WETH, eth("1"), MEME, -1), T0 - 1_000) == before


# The swaps of Ethereum's block 12505500 between WETH and a stable: pool, WETH and stable into it.
V2_USDC, SUSHI_USDC, V2_USDT = "0xb4e16d01", "0x397ff154", "0x0d4a11d5"
V2_DAI, SUSHI_DAI, OTHERS = "0xa478c297", "0xc3d03e4f", "0xdf97d383"
DAI = Token("0xdai", "DAI", 18)
BLOCK = (
    (V2_USDC, -541661503792454499, USDC, 1360760376),
    (SUSHI_USDC, -1992298190922860974, USDC, 5001063898),
    (SUSHI_USDC, -14232722462662352184, USDC, 35735939605),
    (OTHERS, 385263220000000000, USDC, -986882157),
    (V2_USDC, -392830150767045212, USDC, 986882157),
    (V2_USDC, 4004749352456688148, USDC, -10000000000),
    (OTHERS, 1212336550000000000, USDC, -3079413614),
    (V2_USDT, -4723367319161806507, USDT, 11834869238),
    (V2_USDC, 737569824989727602, USDC, -1841591792),
    (V2_USDT, 5237156765833090072, USDT, -13043460540),
    (SUSHI_DAI, -1278163750088465871, DAI, 3211695446865214186933),
    (V2_DAI, -2038800493548055083, DAI, 5124168430651627750951),
    (V2_USDT, -677036361624593877, USDT, 1696186654),
)


def test_a_real_block_says_2510_83() -> None:
    pricer = Pricer(
        Trusted(
            stables=frozenset({USDC.address, USDT.address, DAI.address}),
            natives=frozenset({WETH.address}),
            reference_pools=frozenset({V2_USDC, SUSHI_USDC, V2_USDT, V2_DAI, SUSHI_DAI}),
        )
    )
    for pool, weth, stable, paid in BLOCK:
        said = pricer.price(swap(pool, WETH, weth, stable, paid), 1621972734)
        exact = D(abs(paid)).scaleb(-(stable.decimals or 0))
        assert said == Priced(exact.quantize(D("1e-12"), ROUND_FLOOR), True, "")
    found = pricer.reference(WETH.address, 1621972735)
    assert found.usd is not None
    assert round(found.usd, 2) == D("2510.83")
    assert (found.newest_s, found.held) == (1621972734, 0)


def test_the_prices_for_operators() -> None:
    market = Market()
    shown = market.pricer.references(WETH.address)
    assert list(shown) == [WETH.address], "stables and majors once they have reference swaps"
    assert shown[WETH.address].newest_s == market.now - 1, "a swap counts from the next block on"
    market.price(swap("peg1", USDC, 10**9, USDT, -(10**9)))
    market.tick(1)
    assert list(market.pricer.references(WETH.address)) == ["0xusdc", "0xusdt", "0xweth"]
    assert Pricer(TRUSTED).references(WETH.address)[WETH.address].usd is None


def test_ranks() -> None:
    ranks = [TRUSTED.rank(token.address) for token in (USDC, COIN, WBTC, MEME)]
    assert ranks == [Rank.STABLE, Rank.NATIVE, Rank.MAJOR, Rank.OTHER]
