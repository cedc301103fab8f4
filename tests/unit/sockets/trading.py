"""An owner's trades of one token: what it publishes and answers, and its candles, recomputed."""

from __future__ import annotations

from decimal import Decimal

from aggregator.contracts.event import ATTOS_PER_TOKEN
from aggregator.contracts.stats import token_text, usd_text
from aggregator.contracts.trades import CandleRow, TokenHistory, Trade, TradeBatch
from aggregator.contracts.units import MINUTE_MS

START = 1_700_000_040_000


def trade(
    n: int,
    timestamp: int = START,
    price: str | None = "2",
    *,
    offset: int | None = None,
    removed: bool = False,
    amount: str = "0.5",
    usd: str | None = "1.000000",
) -> Trade:
    return Trade(
        n=n,
        timestamp=timestamp,
        offset=n * 10 if offset is None else offset,
        side="buy",
        amount=amount,
        amount_usd=usd,
        price_usd=price,
        trader="0x1",
        venue=None,
        pool=None,
        quote=None,
        tx_hash=f"0x{n}",
        log_index=0,
        removed=removed,
    )


class Seller:
    """The owner of one token; `restart` makes a new owner, `forget` one that lost the state.

    It sells at `start` (ms) unless `sell` gets another time.
    """

    def __init__(self, token_id: str = "e:t", partition: int = 0, start: int = START) -> None:
        self.start = start
        self.token_id = token_id
        self.partition = partition
        self.epoch = 1
        self.generation = 0
        self.trades: list[Trade] = []

    @property
    def n(self) -> int:
        return len(self.trades)

    def sell(
        self,
        count: int = 1,
        timestamp: int | None = None,
        price: str | None = "2",
        removed: bool = False,
    ) -> TradeBatch:
        fresh = [
            trade(
                self.n + 1 + index,
                self.start if timestamp is None else timestamp,
                price,
                offset=self.generation * 1_000_000 + (self.n + 1 + index) * 10,
                removed=removed,
            )
            for index in range(count)
        ]
        self.trades += fresh
        return self.batch(fresh)

    def batch(self, trades: list[Trade]) -> TradeBatch:
        return TradeBatch(self.token_id, self.partition, self.epoch, trades)

    def restart(self) -> None:
        self.epoch += 1

    def forget(self) -> None:
        self.epoch += 1
        self.generation += 1
        self.trades = []

    def history(self) -> TokenHistory:
        return TokenHistory(
            token_id=self.token_id,
            partition=self.partition,
            epoch=self.epoch,
            n=self.n,
            candles=rows_of(self.trades),
            trades=self.trades[-200:],
        )


def rows_of(trades: list[Trade]) -> list[CandleRow]:
    """Return the minutes, from the trades alone; retracted trades leave no trace."""
    gone = {each.tx_hash for each in trades if each.removed}
    minutes: dict[int, list[Trade]] = {}
    for each in trades:
        if not each.removed and each.tx_hash not in gone:
            minutes.setdefault(each.timestamp - each.timestamp % MINUTE_MS, []).append(each)
    return [_row(minute, minutes[minute]) for minute in sorted(minutes)]


def _row(minute: int, trades: list[Trade]) -> CandleRow:
    priced = sorted(
        (each for each in trades if each.price_usd is not None),
        key=lambda each: each.order,
    )
    prices = [each.price_usd for each in priced if each.price_usd is not None]
    places = [each.order for each in priced]
    valued = [each for each in trades if each.amount_usd is not None]
    micros = sum(int(Decimal(each.amount_usd or 0) * 1_000_000) for each in valued)
    attos = sum(int(Decimal(each.amount) * ATTOS_PER_TOKEN) for each in valued)
    return CandleRow(
        minute_ms=minute,
        open=prices[0] if prices else None,
        high=max(prices, key=float, default=None),
        low=min(prices, key=float, default=None),
        close=prices[-1] if prices else None,
        volume_usd=usd_text(micros),
        volume_token=token_text(attos),
        trades=len(trades),
        opened_at=places[0] if places else None,
        closed_at=places[-1] if places else None,
    )
