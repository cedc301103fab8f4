"""The trades that are published to web nodes, and how many are kept for answers."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from aggregator.contracts.event import Swap
from aggregator.contracts.stats import token_text
from aggregator.contracts.swaps import Swaps, swaps_of
from aggregator.contracts.trades import Trade
from aggregator.decoding.decoder import BatchDecoder
from aggregator.nats.trades import RecentTrades, trade_batches
from tests.support.columns import records

SWAP = Swap(
    token_id="c:t",
    chain="c",
    token="t",
    tx_hash="0xab",
    log_index=3,
    timestamp=1_700_000_000_123,
    is_buy=False,
    amount_attos=25 * 10**16,
    usd_micros=1_500_000,
    price_usd=6.0,
    removed=False,
    marker=bytes(16),
    trader="0xtrader",
    venue="v",
)


def numbered(*numbers: int, tokens: str = "") -> Swaps:
    swaps = [
        msgspec.structs.replace(SWAP, token_id=f"c:{token}", log_index=place)
        for place, token in enumerate(tokens or "t" * len(numbers))
    ]
    batch = swaps_of(swaps, range(100, 100 + len(swaps)))
    batch.swaps["n"] = np.array(numbers)
    return batch


def trades(first: int, last: int) -> list[Trade]:
    (batch,) = trade_batches(0, 1, [numbered(*range(first, last + 1))])
    return batch.trades


def published(swap: Swap, n: int, offset: int) -> Trade:
    batch = swaps_of([swap], [offset])
    batch.swaps["n"] = n
    ((trade,),) = (each.trades for each in trade_batches(0, 1, [batch]))
    return trade


def test_a_trade_has_its_decimals_as_text() -> None:
    assert published(SWAP, 7, 100) == Trade(
        n=7,
        timestamp=1_700_000_000_123,
        offset=100,
        side="sell",
        amount="0.25",
        amount_usd="1.500000",
        price_usd="6",
        trader="0xtrader",
        venue="v",
        pool=None,
        quote=None,
        tx_hash="0xab",
        log_index=3,
        removed=False,
    )
    unpriced = msgspec.structs.replace(SWAP, usd_micros=None, price_usd=None, removed=True)
    retraction = published(unpriced, 8, 101)
    assert (retraction.amount_usd, retraction.price_usd, retraction.removed) == (None, None, True)
    assert type(retraction.removed) is bool


def test_texts_of_many_trades_are_kept_once() -> None:
    event = (
        b'{"chain":"c","token":"t","tx_hash":"0x%d","log_index":0,"timestamp":1700000000000,'
        b'"side":"buy","amount":"1","venue":"uniswap-v3","pool":"0xpool","quote":"USDC"}'
    )
    values = [event % number for number in (1, 2)]
    batch = BatchDecoder(300_000).decode(records(values, 1_700_000_000_000)).swaps
    batch.swaps["n"] = (7, 8)
    ((one, other),) = (each.trades for each in trade_batches(0, 1, [batch]))
    assert (one.venue, one.pool, one.quote) == ("uniswap-v3", "0xpool", "USDC")
    assert one.venue is other.venue
    assert one.pool is other.pool
    assert one.quote is other.quote


def test_bad_records_and_swaps_that_do_not_count_are_no_trades() -> None:
    batch = swaps_of([None, SWAP, None, SWAP])
    batch.swaps["n"] = (0, 0, 0, 9)
    (trades,) = (each.trades for each in trade_batches(0, 1, [batch]))
    assert [(trade.n, trade.offset) for trade in trades] == [(9, 3)]


def test_a_trade_of_decoded_bytes_has_the_texts_of_its_record() -> None:
    """Texts that the compiled passes leave in place, and texts that the rules append."""
    event = (
        '{"chain":"c","token":"t","tx_hash":"0xAB","log_index":9,"timestamp":1700000000000,'
        '"side":"sell","amount":"1","trader":"0x56178A0D5F301BAF6CF3E1CD53D9863437345BF9",'
        '"venue":"%s","quote":"%s"}'
    )
    values = [(event % texts).encode() for texts in (("v", "Q"), ("\u5e01", " "), ("w", "R"))]
    decoder = BatchDecoder(300_000)
    for _ in range(2):
        batch = decoder.decode(records(values, 1_700_000_000_000)).swaps
        batch.swaps["n"] = (1, 2, 3)
        ((one, other, last),) = (each.trades for each in trade_batches(0, 1, [batch]))
        assert (one.venue, one.quote, one.tx_hash, one.log_index) == ("v", "Q", "0xab", 9)
        assert (other.venue, other.quote, other.pool) == ("\u5e01", None, None)
        assert (last.venue, last.quote, last.side) == ("w", "R", "sell")
        assert one.trader == other.trader == "0x56178a0d5f301baf6cf3e1cd53d9863437345bf9"


@pytest.mark.parametrize("attos", [1, 10**18, 10**18 + 1, 10**36 + 5, 3 * 10**47, 10**48 - 1])
def test_amounts_of_any_size_are_exact(attos: int) -> None:
    swap = msgspec.structs.replace(SWAP, amount_attos=attos)
    assert published(swap, 1, 1).amount == token_text(attos)


def test_trades_are_grouped_by_token_and_other_swaps_are_left_out() -> None:
    batches = trade_batches(2, 5, [numbered(1, 0, 8, 2, tokens="aabaa"[:4]), numbered(3)])
    assert [(each.token_id, each.partition, each.epoch) for each in batches] == [
        ("c:a", 2, 5),
        ("c:b", 2, 5),
        ("c:t", 2, 5),
    ]
    assert [[(trade.n, trade.offset) for trade in each.trades] for each in batches] == [
        [(1, 100), (2, 103)],
        [(8, 102)],
        [(3, 100)],
    ]


def test_the_last_trades_of_a_token_are_kept() -> None:
    recent = RecentTrades(kept_a_token=3)
    recent.add("a", trades(1, 2))
    recent.add("a", trades(3, 5))
    assert [trade.n for trade in recent.of("a", up_to=9)] == [3, 4, 5]
    assert [trade.n for trade in recent.of("a", up_to=4)] == [3, 4]
    assert recent.of("b", up_to=9) == []


def test_a_numbering_that_starts_over_replaces_the_earlier_trades() -> None:
    recent = RecentTrades(kept_a_token=3)
    recent.add("a", trades(1, 3))
    recent.add("a", trades(70, 71))
    assert [trade.n for trade in recent.of("a", up_to=99)] == [70, 71]


def test_the_tokens_that_traded_longest_ago_go_first() -> None:
    recent = RecentTrades(kept_a_token=3, kept=6)
    for token in ("a", "b"):
        recent.add(token, trades(1, 3))
    recent.add("a", trades(4, 4))
    recent.add("c", trades(1, 2))
    assert [len(recent.of(token, up_to=9)) for token in ("a", "b", "c")] == [3, 0, 2]
    recent.add("d", trades(1, 3))
    assert [len(recent.of(token, up_to=9)) for token in ("a", "b", "c", "d")] == [0, 0, 2, 3]
