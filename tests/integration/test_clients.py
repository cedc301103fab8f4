"""Both clients, as separate processes, against a running service whose parts are killed.

Each test runs both clients together: they see the same fault, and the service restarts only once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from infra.embedded.stack import Stack
from tests.integration.client_processes import ClientProcess, node
from tests.support.processes import wait_until
from tests.support.service import Service, swap

_numbers = itertools.count(1)


class Running:
    """The service with one aggregator and one web node, which tests kill and restart."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.aggregator = service.aggregator()
        self.web = service.web()
        self._starts = itertools.count(2)
        service.wait_ready()

    def restart_web(self) -> None:
        self.web = self.service.web(f"web-{next(self._starts)}")

    def restart_aggregator(self) -> None:
        self.aggregator = self.service.aggregator(f"aggregator-{next(self._starts)}")

    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.web_port}"

    def token(self, path: Path, ttl_s: int = 3_600) -> Path:
        """Write a new token to a file and return the file."""
        path.write_text(self.service.issue(path.parent.name, "stats:read ws:connect", ttl_s))
        return path

    def trade(self, token: str, count: int) -> list[str]:
        """Produce swaps of a token `chain:name` and return their transactions."""
        numbers = [next(_numbers) for _ in range(count)]
        swaps = [swap(each, token=token.partition(":")[2]) for each in numbers]
        self.service.produce(swaps, key=token)
        return [f"0x{each:064x}" for each in numbers]


@pytest.fixture(scope="module")
def running(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Service(tmp_path_factory.mktemp("clients"), stack) as service:
        yield Running(service)


class Clients:
    """One client of each language with the same settings."""

    def __init__(self, members: list[ClientProcess]) -> None:
        self._members = members

    def __iter__(self) -> Iterator[ClientProcess]:
        return iter(self._members)

    def wait(self, holds: Callable[[ClientProcess], Any], within_s: float, what: str) -> None:
        """Wait until the condition is true for each client."""
        for each in self:
            each.wait(partial(holds, each), within_s, what)

    def wait_hashes(self, token: str, sent: list[str], within_s: float, what: str) -> None:
        """Wait until each client has received exactly these trades in this order."""
        self.wait(lambda client: client.hashes(token) == sent, within_s, what)


class Starter:
    """Starts clients that end with the `with` block."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._languages = ["python"]
        try:
            node()
        except pytest.skip.Exception:
            return  # test_there_is_a_node_for_javascript reports it.
        self._languages.append("js")

    @contextmanager
    def __call__(self, token_file: Path, **settings: str) -> Iterator[Clients]:
        url = self._running.url()
        with ExitStack() as block:
            processes = [
                block.enter_context(ClientProcess(each, url, token_file, **settings))
                for each in self._languages
            ]
            yield Clients(processes)


@pytest.fixture(scope="module")
def start(running: Running) -> Starter:
    return Starter(running)


def contiguous(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def state(client: ClientProcess) -> tuple[str, bool]:
    """Return the last reported state of the connection and whether its numbers are stale."""
    newest = client.of("change")[-1]
    return newest["state"], newest["stale"]


def test_there_is_a_node_for_javascript() -> None:
    """Is skipped if the other tests run without the JavaScript client."""
    assert node()


@pytest.mark.timeout(180)
def test_no_trade_is_lost_or_repeated_when_the_web_node_is_killed(
    running: Running, start: Starter, tmp_path: Path
) -> None:
    token = "ethereum:KILLED"
    sent = running.trade(token, 5)
    file = running.token(tmp_path / "token")
    with start(file, CHANNEL="trades", TOKENS=token) as clients:
        clients.wait_hashes(token, sent, 20, "the first trades")
        running.web.kill()
        clients.wait(lambda client: client.of("change", state="waiting", stale=True), 10, "loss")
        sent += running.trade(token, 50)
        running.restart_web()
        sent += running.trade(token, 5)
        clients.wait(lambda client: len(client.hashes(token)) >= len(sent), 20, "the other trades")
        for client in clients:
            assert client.hashes(token) == sent
            assert contiguous(client.numbers(token))
            assert client.of("gap") == []
        clients.wait(lambda client: state(client) == ("open", False), 20, "open and fresh")


@pytest.mark.timeout(180)
def test_what_the_node_no_longer_holds_is_a_gap(
    running: Running, start: Starter, tmp_path: Path
) -> None:
    token = "ethereum:GAP"
    first = running.trade(token, 3)
    file = running.token(tmp_path / "token")
    with start(file, CHANNEL="trades", TOKENS=token) as clients:
        clients.wait_hashes(token, first, 20, "the first trades")
        (last,) = {client.numbers(token)[-1] for client in clients}
        running.web.kill()
        missed = running.trade(token, 300)
        running.restart_web()
        clients.wait(lambda client: client.hashes(token)[-1] == missed[-1], 20, "the newest trade")
        for client in clients:
            (gap,) = client.of("gap")
            given = client.hashes(token)[3:]
            assert given == missed[-len(given) :]
            assert 0 < len(given) < 300
            assert (gap["from_n"], gap["to_n"]) == (last + 1, last + 300 - len(given))
            assert (gap["restarted"], gap["cause"]) == (False, "service")
            assert client.numbers(token)[3] == gap["to_n"] + 1


def test_a_node_that_stops_says_when_to_come_back(
    running: Running, start: Starter, tmp_path: Path
) -> None:
    token = "ethereum:STOP"
    sent = running.trade(token, 2)
    file = running.token(tmp_path / "token")
    with start(file, CHANNEL="trades", TOKENS=token) as clients:
        clients.wait_hashes(token, sent, 20, "the first trades")
        running.web.terminate()
        clients.wait(lambda client: client.of("change", state="waiting"), 20, "the loss")
        clients.wait(lambda client: len(client.of("token")) == 2, 20, "the next attempt")
        for client in clients:
            (lost, *_) = client.of("change", state="waiting")
            # The hint is 0.5 to 5 s; without it the first attempt would start within 0.5 s.
            assert client.of("token")[1]["received_s"] - lost["received_s"] > 0.4
        running.web.wait()
        running.restart_web()
        sent += running.trade(token, 2)
        clients.wait_hashes(token, sent, 20, "the other trades")


def test_the_token_is_renewed_on_the_open_connection(
    running: Running, start: Starter, tmp_path: Path
) -> None:
    token = "ethereum:RENEW"
    sent = running.trade(token, 1)
    file = running.token(tmp_path / "token", ttl_s=10)
    expires = time.time() + 10
    with start(file, CHANNEL="trades", TOKENS=token) as clients:
        clients.wait_hashes(token, sent, 8, "the first trades")
        running.token(file)
        clients.wait(lambda client: len(client.of("token")) >= 2, 10, "another token")
        wait_until(lambda: time.time() > expires + 0.5, 12, "the end of the first token")
        sent += running.trade(token, 1)
        clients.wait_hashes(token, sent, 10, "a trade after the old expiry")
        for client in clients:
            assert client.of("change", state="waiting") == []


def test_an_expired_token_without_another_ends_the_client(
    running: Running, start: Starter, tmp_path: Path
) -> None:
    file = running.token(tmp_path / "token", ttl_s=3)
    with start(file, CHANNEL="token_stats", TOKENS="ethereum:ANY") as clients:
        clients.wait(lambda client: client.of("ended"), 45, "the end")
        for client in clients:
            (ended,) = client.of("ended")
            assert ended["error"] == "AuthRefused"
            assert "4003" in ended["text"]
        clients.wait(lambda client: state(client)[0] == "closed", 10, "closed")
        for client in clients:
            assert client.exit_code() == 0


@pytest.mark.timeout(180)
def test_numbers_are_stale_while_the_aggregator_is_gone_and_right_again_after(
    running: Running, start: Starter, tmp_path: Path
) -> None:
    token = "ethereum:STALE"
    running.trade(token, 3)
    file = running.token(tmp_path / "token")

    def newest(client: ClientProcess) -> tuple[int, bool]:
        stats = [line["stats"] for line in client.of("stats") if line["stats"]]
        return (stats[-1]["windows"]["1h"]["trades"], stats[-1]["stale"]) if stats else (0, True)

    with start(file, CHANNEL="token_stats", TOKENS=token) as clients:
        clients.wait(lambda client: newest(client) == (3, False), 20, "the first numbers")
        clients.wait(lambda client: not state(client)[1], 10, "fresh")
        running.aggregator.kill()
        clients.wait(lambda client: state(client)[1], 10, "stale")
        clients.wait(lambda client: newest(client) == (3, True), 10, "the row marked as stale")
        running.trade(token, 4)
        running.restart_aggregator()
        clients.wait(lambda client: newest(client) == (7, False), 40, "the right numbers")
        clients.wait(lambda client: not state(client)[1], 10, "fresh again")
        for client in clients:
            assert client.of("change", state="waiting") == []
            shown = [line["stats"] for line in client.of("stats") if line["stats"]]
            places = [(stats["epoch"], stats["seq"]) for stats in shown]
            assert places == sorted(places)


def test_a_slow_reader_learns_what_it_lost(
    running: Running, start: Starter, tmp_path: Path
) -> None:
    token = "ethereum:SLOW"
    first = running.trade(token, 1)
    file = running.token(tmp_path / "token")
    trades = {"CHANNEL": "trades", "TOKENS": token}
    with start(file, **trades, HOLD="1", BUFFER="50") as slow, start(file, **trades) as readers:
        readers.wait_hashes(token, first, 20, "the first trade")
        slow.wait(lambda client: client.of("change", state="open"), 10, "the slow clients")
        sent = first + running.trade(token, 150)
        readers.wait_hashes(token, sent, 20, "all trades at the other clients")
        # By now the connections of the slow clients have received them too.
        running.trade("ethereum:OTHER", 1)
        for client in slow:
            client.go()
        slow.wait(lambda client: sent[-1] in client.hashes(token), 10, "the newest trade")
        for client, reader in zip(slow, readers, strict=True):
            received = set(client.numbers(token))
            for gap in client.of("gap", cause="slow_reader"):
                received |= set(range(gap["from_n"], gap["to_n"] + 1))
            assert client.of("gap")
            assert received == set(reader.numbers(token))
            assert len(client.hashes(token)) == len(set(client.hashes(token)))


def test_a_refused_token_does_not_disturb_the_others(
    running: Running, start: Starter, tmp_path: Path
) -> None:
    token = "ethereum:GOOD"
    sent = running.trade(token, 1)
    file = running.token(tmp_path / "token")
    with start(file, CHANNEL="trades", TOKENS=f"no-token,{token}") as clients:
        clients.wait_hashes(token, sent, 20, "the trade")
        for client in clients:
            (refused,) = client.of("refused")
            assert (refused["code"], refused["token"]) == ("token_invalid", "no-token")
