"""The stack of the dashboard's tests: aggregator, web node, browser, and the page's requests."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, Page, expect

from api.auth.demo_issuer import ensure_keys, issue
from infra.embedded.engine import Process
from infra.embedded.ports import free_port
from tests.support.service import Service, swap

WITHIN_MS = 30_000
FRESH = "body[data-fresh=yes]"
# The stack of these tests has no archive: the page says so, and the browser logs the 503.
NO_ARCHIVE = re.compile(r"/(candles|trades)\?")

Row = dict[str, Any]


@dataclass
class Visit:
    """One page, its requests, and its errors."""

    page: Page
    origin: str
    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    outage: bool = False
    """The test breaks the connection, which the browser logs in its console."""

    def listen(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self._said(message.type, message))

    def _said(self, kind: str, message: Any) -> None:
        where = str(message.location.get("url", ""))
        if kind in {"error", "warning"} and not NO_ARCHIVE.search(where) and not self.outage:
            self.faults.append(f"{kind}: {message.text} {where}")

    def check(self) -> None:
        """Assert no error, no address but the node's, and no token in an address."""
        assert self.faults == []
        socket = self.origin.replace("http", "ws", 1)
        assert self.requests
        for url in self.requests:
            assert url.startswith((f"{self.origin}/", f"{socket}/", "data:")), url
            assert "eyJ" not in url

    def open(self, path: str = "/") -> Page:
        self.page.goto(f"{self.origin}{path}")
        expect(self.page.locator(FRESH)).to_be_attached(timeout=WITHIN_MS)
        return self.page


class Dashboard:
    """One stack for all tests of a module; each test uses separate tokens or numbers."""

    def __init__(self, service: Service, browser: Browser) -> None:
        self.service = service
        self.browser = browser
        self.aggregator: Process
        self.web: Process
        self._number = 0

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.service.web_port}"

    def start(self) -> None:
        """Start an aggregator and a demo's web node; produce two hundred swaps of seven tokens."""
        file = self.service.directory / "page-token"
        file.write_text(self.token())
        self.service.env["DEMO_TOKEN_FILE"] = str(file)
        self.service.env["WS_SUBJECT_CONNECTIONS"] = "100"
        self.aggregator = self.service.aggregator()
        self.web = self.service.web()
        self.service.wait_ready(60)
        self.trade(200)

    def token(self, scope: str = "stats:read history:read ws:connect") -> str:
        """Return a token of the demo's issuer."""
        return issue(
            ensure_keys(self.service.directory / "issuer"),
            subject="page",
            issuer="swaps-demo",
            audience="swaps",
            scope=scope,
            issued_at=int(time.time()),
            ttl_ms=3_600_000,
        )

    def trade(self, count: int = 1, **fields: Any) -> None:
        """Produce new swaps; without an aggregator they wait in Kafka."""
        begin = self._number
        self._number += count
        prices = ("10.5", "11.25", "0.000004321", "123456.789")
        made = (
            swap(number, amount_usd=prices[number % 4], trader=f"0x{number % 11:040x}", **fields)
            for number in range(begin, begin + count)
        )
        self.service.produce(made)

    def swaps(self, *each: dict[str, Any]) -> None:
        """Produce one new swap of each of these fields, in order."""
        begin = self._number
        self._number += len(each)
        self.service.produce(swap(number, **of) for number, of in enumerate(each, begin))

    @property
    def produced(self) -> int:
        """The number of produced swaps."""
        return self._number

    def settled(self, **params: Any) -> dict[str, Any]:
        """Return the overview of REST once it counts every swap."""
        self.service.wait_trades(self._number)
        return self.service.overview(**params)

    @contextmanager
    def visit(self, **options: Any) -> Iterator[Visit]:
        """Open a page in a fresh browser profile; check it at the end."""
        context = self.browser.new_context(**options)
        visit = Visit(context.new_page(), self.origin)
        visit.listen()
        try:
            yield visit
            visit.check()
        finally:
            context.close()

    @contextmanager
    def without_demo(self) -> Iterator[Process]:
        """Run a second web node that issues no token; `origin` is its address meanwhile."""
        before = self.service.web_port
        self.service.web_port = free_port()
        process = self.service.web("production", DEMO_TOKEN_FILE="")
        try:
            yield process
        finally:
            process.kill()
            self.service.web_port = before


def shown(page: Page) -> list[Row]:
    """Return the list's rows: exact values by column, and `NAME_text`, the visible text."""
    found = page.evaluate(
        """() => [...document.querySelectorAll("#rows tr")].map((row) => ({
            token: row.dataset.token,
            cells: [...row.querySelectorAll("td data")].map((each) =>
                [each.parentElement.className, each.value, each.textContent]),
        }))"""
    )
    rows = []
    for each in found:
        row = {"token": each["token"]}
        for column, value, text in each["cells"]:
            row |= {column: value, f"{column}_text": text}
        rows.append(row)
    return rows


def expected(overview: dict[str, Any]) -> list[Row]:
    """Return what `shown` must return for REST's overview, formatted by separate code."""
    rows = []
    for each in overview["tokens"]:
        of = each["windows"][overview["window"]]
        changes = {name: found["price_change_pct"] for name, found in each["windows"].items()}
        rows.append(
            {
                "token": each["token_id"],
                "price": each["last_price_usd"],
                "price_text": _price(each["last_price_usd"]),
                **{f"change in-{name}": f"{change:.12g}" for name, change in changes.items()},
                **{f"change in-{name}_text": _percent(each) for name, each in changes.items()},
                "volume": of["volume_usd"],
                "volume_text": f"${_compact(float(of['volume_usd']))}",
                "net": of["net_volume_usd"],
                "trades": str(of["trades"]),
                "trades_text": f"{of['trades']:,}",
                "traders": str(of["traders"]),
            }
        )
    return rows


def agrees(page: Page, overview: dict[str, Any]) -> bool:
    """Return whether the list shows exactly the overview's tokens, in order, with its numbers."""
    rows, wanted = shown(page), expected(overview)
    for row in rows:
        for name in [name for name in row if re.fullmatch(r"change in-\w+", name)]:
            if not name.endswith("_text"):
                row[name] = f"{float(row[name] or 'nan'):.12g}"
    return [
        {name: row.get(name) for name in each} for row, each in zip(rows, wanted, strict=False)
    ] == wanted and len(rows) == len(wanted)


def _compact(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.2f}{letter}"
    return f"{number:.2f}"


def _percent(change: float) -> str:
    size = abs(change)
    text = f"{size:,.2f}" if size < 1_000 else f"{size:,.0f}" if size < 1e6 else _compact(size)
    return f"▲ +{text}%" if change > 0 else f"▼ −{text}%" if change < 0 else f"{text}%"  # noqa: RUF001


def _price(text: str) -> str:
    number = float(text)
    if number >= 100:
        return f"${number:,.2f}"
    if number >= 0.001:
        return f"${number:.{3 - math.floor(math.log10(number))}f}"
    digits, _, exponent = f"{number:.3e}".partition("e-")
    subscript = str(int(exponent) - 1).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
    return f"$0.0{subscript}{digits.replace('.', '')}"
