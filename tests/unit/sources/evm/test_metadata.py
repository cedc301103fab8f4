"""Symbols and decimals, also of contracts that are old, silent or hostile."""

from __future__ import annotations

import pytest

from aggregator.runtime.errors import Retry
from sources.evm.metadata import Metadata, decimals_in, symbol_in
from sources.evm.types import Token
from tests.fakes.contracts import FakeContracts, answer

AT = "0x" + "b1" * 32
TOKEN = "0x" + "70" * 20


def text(symbol: str | bytes) -> bytes:
    """A string as a contract answers it; bytes need not be UTF-8."""
    raw = symbol.encode() if isinstance(symbol, str) else symbol
    padded = raw.ljust((len(raw) + 31) // 32 * 32, b"\0")
    return (32).to_bytes(32) + len(raw).to_bytes(32) + padded


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        pytest.param(text("USDC"), "USDC", id="a string"),
        pytest.param(b"MKR".ljust(32, b"\0"), "MKR", id="bytes32, as MKR"),
        pytest.param(text("TAX\n\u202e"), "TAX", id="line break and direction override"),
        pytest.param(
            text("\u200bUS\u2066D\u00adT\x00"), "USDT", id="zero width, isolate, soft hyphen"
        ),
        pytest.param(text("  A B  "), "A B", id="blanks around"),
        pytest.param(text("₮ 株"), "₮ 株", id="any script"),
        pytest.param(text(b"AB\xff\xfeC"), "ABC", id="not UTF-8"),
        pytest.param(text("x" * 1_000_000), "x" * 32, id="a megabyte"),
        pytest.param(text("\u202e" * 5), None, id="nothing visible"),
        pytest.param(text(""), None, id="empty string"),
        pytest.param(b"", None, id="no answer"),
        pytest.param(b"\0" * 32, None, id="empty bytes32"),
        pytest.param(b"abc", None, id="three bytes"),
        pytest.param((2**255).to_bytes(32) + b"\x01" * 64, None, id="an offset out of nowhere"),
        pytest.param(
            (32).to_bytes(32) + (2**255).to_bytes(32) + b"AB" * 16, "AB" * 16, id="length"
        ),
    ],
)
def test_symbols(given: bytes, shown: str | None) -> None:
    assert symbol_in(given) == shown


@pytest.mark.parametrize(
    ("given", "decimals"),
    [
        pytest.param((18).to_bytes(32), 18, id="18"),
        pytest.param((0).to_bytes(32), 0, id="0"),
        pytest.param((77).to_bytes(32), 77, id="the most"),
        pytest.param((78).to_bytes(32), None, id="more than 256 bits hold"),
        pytest.param((2**256 - 1).to_bytes(32), None, id="all ones"),
        pytest.param(b"\x12", None, id="a byte"),
        pytest.param(b"", None, id="no answer"),
    ],
)
def test_decimals_are_known_or_unknown_and_never_guessed(
    given: bytes, decimals: int | None
) -> None:
    assert decimals_in(given) == decimals


async def test_a_token_is_asked_once() -> None:
    chain = FakeContracts()
    chain.erc20(TOKEN, "USDC", 6)
    metadata = Metadata(chain)
    for _ in range(2):
        assert await metadata.of([TOKEN, TOKEN], AT) == {TOKEN: Token(TOKEN, "USDC", 6)}
    assert len(chain.calls) == 2


async def test_a_token_without_symbol_still_has_decimals_but_not_the_other_way_round() -> None:
    chain = FakeContracts()
    chain.add(TOKEN, "decimals()", answer(["uint8"], 9))
    chain.add(TOKEN, "symbol()", None)
    assert await Metadata(chain).of([TOKEN], AT) == {TOKEN: Token(TOKEN, None, 9)}
    chain.erc20(TOKEN, "NO", 9)
    chain.add(TOKEN, "decimals()", None)
    now = 0.0
    metadata = Metadata(chain, lambda: now)
    assert await metadata.of([TOKEN], AT) == {TOKEN: Token(TOKEN, None, None)}
    chain.add(TOKEN, "decimals()", answer(["uint8"], 9))
    assert (await metadata.of([TOKEN], AT))[TOKEN].decimals is None
    now = 600.0
    assert await metadata.of([TOKEN], AT) == {TOKEN: Token(TOKEN, "NO", 9)}


async def test_a_node_that_is_away_makes_no_token_unpriced() -> None:
    chain = FakeContracts()
    chain.erc20(TOKEN, "USDC", 6)
    chain.failing = 1
    metadata = Metadata(chain)
    with pytest.raises(Retry):
        await metadata.of([TOKEN], AT)
    assert await metadata.of([TOKEN], AT) == {TOKEN: Token(TOKEN, "USDC", 6)}
