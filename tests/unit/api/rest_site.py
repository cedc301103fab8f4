"""A web node for Django's test client: a fixed clock, and a board filled with real structs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.http import HttpResponse
from django.test import AsyncClient

from aggregator.runtime.config import load
from api.auth.demo_issuer import ensure_keys, issue
from api.services import Services, build
from tests.unit.api.samples import AS_OF, Owner, row, window

NOW_S = 1_700_000_000
STARTED_AT = 1_000
IBC = "cosmos:ibc/27394FB092D2ECCD56123C74F36E4C1F"


class Site:
    """A web node with a fixed clock, a board of two partitions, and a client."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.now_ms = STARTED_AT
        self.directory = directory
        self._key = ensure_keys(directory)
        config = load({"JWT_PUBLIC_KEY_FILE": str(directory / "public.pem"), **settings})
        self.parts: Services = build(config, lambda: self.now_ms, lambda: NOW_S)
        self.board = self.parts.board
        self.client = AsyncClient(raise_request_exception=False)

    def token(self, scope: str = "stats:read ops:read") -> str:
        return issue(
            self._key,
            subject="someone",
            issuer="swaps-demo",
            audience="swaps",
            scope=scope,
            issued_at=NOW_S,
            ttl_ms=60_000,
        )

    async def get(self, path: str, **headers: str) -> HttpResponse:
        sent = {"Authorization": f"Bearer {self.token()}", **headers}
        response: HttpResponse = await self.client.get(path, headers=sent)
        return response

    def hydrate(self, *owners: Owner) -> None:
        for owner in owners:
            made_at = self.now_ms - STARTED_AT + owner.seq
            self.board.heartbeat(owner.heartbeat(made_at), self.now_ms)
        for ask in self.board.due(self.now_ms):
            for chunk in owners[ask.partition].answer(ask.request):
                self.board.answer(ask.request_id, chunk, self.now_ms)


def filled(site: Site) -> tuple[Owner, Owner]:
    """Fill the board: four tokens on two partitions; AAA and BBB tie in trades."""
    owners = Owner(partition=0, partitions=2), Owner(partition=1, partitions=2)
    for owner, token_id, symbol, stats in (
        (owners[0], "ethereum:0xbb", "BBB", window(2_500_000, 1, 2, 1, change_pct=-1.5)),
        (owners[0], IBC, None, window(0, 7_000_000, 0, 9, traders=2)),
        (owners[1], "ethereum:0xaa", "AAA", window(10_000_000, 333_333, 2, 1, change_pct=4.25)),
        (owners[1], "base:0xcc", "aaC", window(1, 0, 1, 0, change_pct=0.0)),
    ):
        patch = owner.trade(token_id)
        owner.rows[token_id] = row(
            token_id,
            partition=owner.partition,
            seq=patch.seq,
            next_offset=patch.next_offset,
            symbol=symbol,
            as_of=AS_OF + owner.partition * 50,
            stats=stats,
        )
    site.hydrate(*owners)
    return owners


def body(response: HttpResponse) -> Any:
    return json.loads(response.content)


def ids(response: HttpResponse) -> list[str]:
    assert response.status_code == 200, response.content
    return [each["token_id"] for each in body(response)["tokens"]]


def problem(response: HttpResponse, status: int, code: str) -> Any:
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    document = body(response)
    assert (document["status"], document["code"]) == (status, code)
    assert document["title"] and document["detail"]
    return document
