"""What the service shows of a chain: by its sockets, by REST, and in the archive's table."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final, Self

from swapclient import Client, Gap, StatsUpdate, TradesUpdate
from swapclient.messages import TokenStats, Trade

from infra.chain.source_toml import CHAIN
from tests.storm.final_chain import Leg
from tests.support.archived import Archive
from tests.support.loop_thread import LoopThread
from tests.support.service import Service

_PAGE: Final = 500


def archived(archive: Archive) -> Counter[Leg]:
    """Return the legs that stand in raw_swaps, with the sum of their signs."""
    rows = archive.ask(
        "SELECT tx_hash, log_index, token, toString(side), amount, sum(sign) FROM raw_swaps "
        f"WHERE chain = '{CHAIN}' GROUP BY 1, 2, 3, 4, 5 HAVING sum(sign) != 0"
    )
    return Counter({_leg(*row[:5]): row[5] for row in rows})


def by_rest(service: Service, tokens: Iterable[str]) -> Counter[Leg]:
    """Return the trades of the tokens, page by page from the newest to the oldest."""
    found: Counter[Leg] = Counter()
    for token in tokens:
        query: dict[str, Any] = {"limit": _PAGE}
        while True:
            answer = service.get(f"/api/tokens/{CHAIN}:{token}/trades", **query)
            if answer.status_code == 404:
                break
            assert answer.status_code == 200, answer.text
            page = answer.json()
            for each in page["trades"]:
                at = (each["event_id"].split(":")[1], int(each["event_id"].split(":")[2]))
                found[_leg(*at, token, each["side"], each["amount"])] += 1
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
    return found


class Listener:
    """A WebSocket client of all tokens, from before the storm until after it.

    `lost` counts the trades that the service said it could not deliver.
    """

    def __init__(self, url: str, token: str, tokens: Iterable[str]) -> None:
        self._url, self._token = url, token
        self._tokens = [f"{CHAIN}:{each}" for each in tokens]
        self._trades: defaultdict[str, dict[int, Trade]] = defaultdict(dict)
        self._stats: dict[str, TokenStats | None] = {}
        self._thread = LoopThread("listener")
        self._task: asyncio.Task[None] | None = None
        self.lost = 0
        self.restarts = 0

    def __enter__(self) -> Self:
        self._thread.__enter__()
        self._thread.call(self._begin(), 30)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._thread.call(self._end(), 30)
        finally:
            self._thread.__exit__()

    def trades(self) -> Counter[Leg]:
        """Return the trades that stand: each was added once more often than it was taken back."""

        async def fold() -> Counter[Leg]:
            found: Counter[Leg] = Counter()
            for token_id, held in self._trades.items():
                token = token_id.partition(":")[2]
                for each in held.values():
                    leg = _leg(each.tx_hash, each.log_index, token, each.side, each.amount)
                    found[leg] += -1 if each.removed else 1
            return Counter({leg: count for leg, count in found.items() if count})

        return self._thread.call(fold(), 30)

    def stats(self) -> dict[str, TokenStats]:
        """Return the newest numbers of each token that has any, by the token's address."""

        async def copy() -> dict[str, TokenStats]:
            known = {token: row for token, row in self._stats.items() if row is not None}
            return {token.partition(":")[2]: row for token, row in known.items()}

        return self._thread.call(copy(), 30)

    async def _begin(self) -> None:
        self._task = asyncio.create_task(self._listen())

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _listen(self) -> None:
        async with Client(self._url, self._token) as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_trades(client))
            tasks.create_task(self._read_stats(client))

    async def _read_trades(self, client: Client) -> None:
        async for update in client.subscribe("trades", tokens=self._tokens):
            if isinstance(update, TradesUpdate):
                held = self._trades[update.token]
                held.update({trade.n: trade for trade in update.trades})
            elif isinstance(update, Gap):
                if update.restarted:
                    self.restarts += 1
                    self._trades[update.token].clear()
                else:
                    self.lost += 1 if update.to_n is None else update.to_n - update.from_n + 1

    async def _read_stats(self, client: Client) -> None:
        async for update in client.subscribe("token_stats", tokens=self._tokens):
            if isinstance(update, StatsUpdate):
                self._stats[update.token] = update.stats


def _leg(tx_hash: str, log_index: int, token: str, side: str, amount: Any) -> Leg:
    return Leg(tx_hash, log_index, token, side, Decimal(amount))
