"""Both clients, as processes of their own, against a running service that is killed under them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded.stack import Stack
from tests.integration.client_processes import ClientProcess
from tests.processes import wait_until
from tests.service import Service, swap

_numbers = itertools.count(1)


class Running:
    """The service with one aggregator and one web node, which tests kill and start again."""

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

    def token(self, path: Path, ttl: str = "1h") -> Path:
        """A file with a new token."""
        arguments = ["issue_token", "--sub", path.parent.name, "--ttl", ttl]
        path.write_text(self.service.manage(*arguments).stdout.strip())
        return path

    def trade(self, token: str, count: int) -> list[str]:
        """Publish swaps of a token `chain:name`; their transactions."""
        numbers = [next(_numbers) for _ in range(count)]
        swaps = [swap(each, token=token.partition(":")[2]) for each in numbers]
        self.service.produce(swaps, key=token)
        return [f"0x{each:064x}" for each in numbers]


@pytest.fixture(scope="module")
def running(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Service(tmp_path_factory.mktemp("clients"), stack) as service:
        yield Running(service)


@pytest.fixture(params=["python", "js"])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def contiguous(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.timeout(180)
def test_no_trade_is_lost_or_told_twice_when_the_web_node_is_killed(
    running: Running, language: str, tmp_path: Path
) -> None:
    token = f"ethereum:KILLED-{language}"
    sent = running.trade(token, 5)
    file = running.token(tmp_path / "token")
    settings = {"CHANNEL": "trades", "TOKENS": token}
    with ClientProcess(language, running.url(), file, **settings) as client:
        client.wait(lambda: client.hashes(token) == sent, 20, "the first trades")
        running.web.kill()
        client.wait(lambda: client.of("change", state="waiting", stale=True), 5, "the loss")
        sent += running.trade(token, 50)
        running.restart_web()
        sent += running.trade(token, 5)
        client.wait(lambda: len(client.hashes(token)) >= len(sent), 20, "the other trades")
        assert client.hashes(token) == sent
        assert contiguous(client.numbers(token))
        assert client.of("gap") == []
        client.wait(lambda: client.of("change")[-1]["state"] == "open", 5, "open")
        client.wait(lambda: not client.of("change")[-1]["stale"], 10, "fresh")


@pytest.mark.timeout(180)
def test_what_the_node_no_longer_holds_is_a_gap(
    running: Running, language: str, tmp_path: Path
) -> None:
    token = f"ethereum:GAP-{language}"
    first = running.trade(token, 3)
    file = running.token(tmp_path / "token")
    settings = {"CHANNEL": "trades", "TOKENS": token}
    with ClientProcess(language, running.url(), file, **settings) as client:
        client.wait(lambda: client.hashes(token) == first, 20, "the first trades")
        last = client.numbers(token)[-1]
        running.web.kill()
        missed = running.trade(token, 300)
        running.restart_web()
        client.wait(lambda: client.hashes(token)[-1] == missed[-1], 20, "the newest trade")
        (gap,) = client.of("gap")
        given = client.hashes(token)[3:]
        assert given == missed[-len(given) :]
        assert 0 < len(given) < 300
        assert (gap["from_n"], gap["to_n"]) == (last + 1, last + 300 - len(given))
        assert (gap["restarted"], gap["cause"]) == (False, "service")
        assert client.numbers(token)[3] == gap["to_n"] + 1


def test_a_node_that_stops_says_when_to_come_back(
    running: Running, language: str, tmp_path: Path
) -> None:
    token = f"ethereum:STOP-{language}"
    sent = running.trade(token, 2)
    file = running.token(tmp_path / "token")
    settings = {"CHANNEL": "trades", "TOKENS": token}
    with ClientProcess(language, running.url(), file, **settings) as client:
        client.wait(lambda: client.hashes(token) == sent, 20, "the first trades")
        running.web.terminate()
        client.wait(lambda: client.of("change", state="waiting"), 10, "the loss")
        lost = time.monotonic()
        client.wait(lambda: len(client.of("token")) == 2, 8, "the next attempt")
        # The hint is 0.5 to 5 s; without it the first attempt would come within 0.5 s.
        assert time.monotonic() - lost > 0.4
        running.web.wait()
        running.restart_web()
        sent += running.trade(token, 2)
        client.wait(lambda: client.hashes(token) == sent, 20, "the other trades")


def test_the_token_is_renewed_on_the_open_connection(
    running: Running, language: str, tmp_path: Path
) -> None:
    token = f"ethereum:RENEW-{language}"
    sent = running.trade(token, 1)
    file = running.token(tmp_path / "token", ttl="8s")
    expires = time.time() + 8
    settings = {"CHANNEL": "trades", "TOKENS": token}
    with ClientProcess(language, running.url(), file, **settings) as client:
        client.wait(lambda: client.hashes(token) == sent, 6, "the first trades")
        running.token(file)
        client.wait(lambda: len(client.of("token")) >= 2, 8, "another token")
        wait_until(lambda: time.time() > expires + 0.5, 10, "the end of the first token")
        sent += running.trade(token, 1)
        client.wait(lambda: client.hashes(token) == sent, 10, "a trade behind the old expiry")
        assert client.of("change", state="waiting") == []


def test_an_expired_token_without_another_ends_the_client(
    running: Running, language: str, tmp_path: Path
) -> None:
    file = running.token(tmp_path / "token", ttl="3s")
    settings = {"CHANNEL": "token_stats", "TOKENS": "ethereum:ANY"}
    with ClientProcess(language, running.url(), file, **settings) as client:
        client.wait(lambda: client.of("ended"), 45, "the end")
        (ended,) = client.of("ended")
        assert ended["error"] == "AuthRefused"
        assert "4003" in ended["text"]
        client.wait(lambda: client.of("change")[-1]["state"] == "closed", 5, "closed")
        assert client.exit_code() == 0


@pytest.mark.timeout(180)
def test_numbers_are_stale_while_the_aggregator_is_gone_and_right_again_after(
    running: Running, language: str, tmp_path: Path
) -> None:
    token = f"ethereum:STALE-{language}"
    running.trade(token, 3)
    file = running.token(tmp_path / "token")
    settings = {"CHANNEL": "token_stats", "TOKENS": token}
    with ClientProcess(language, running.url(), file, **settings) as client:

        def newest() -> tuple[int, bool]:
            stats = [line["stats"] for line in client.of("stats") if line["stats"]]
            return (
                (stats[-1]["windows"]["1h"]["trades"], stats[-1]["stale"]) if stats else (0, True)
            )

        client.wait(lambda: newest() == (3, False), 20, "the first numbers")
        client.wait(lambda: not client.of("change")[-1]["stale"], 10, "fresh")
        running.aggregator.kill()
        client.wait(lambda: client.of("change")[-1]["stale"], 6, "stale")
        client.wait(lambda: newest() == (3, True), 6, "the row marked as stale")
        running.trade(token, 4)
        running.restart_aggregator()
        client.wait(lambda: newest() == (7, False), 40, "the right numbers")
        client.wait(lambda: not client.of("change")[-1]["stale"], 10, "fresh again")
        assert client.of("change", state="waiting") == []
        places = [
            (line["stats"]["epoch"], line["stats"]["seq"])
            for line in client.of("stats")
            if line["stats"]
        ]
        assert places == sorted(places)


def test_a_slow_reader_is_told_what_it_lost(
    running: Running, language: str, tmp_path: Path
) -> None:
    token = f"ethereum:SLOW-{language}"
    first = running.trade(token, 1)
    file = running.token(tmp_path / "token")
    settings = {"CHANNEL": "trades", "TOKENS": token, "HOLD": "1", "BUFFER": "50"}
    with (
        ClientProcess(language, running.url(), file, **settings) as slow,
        ClientProcess(language, running.url(), file, CHANNEL="trades", TOKENS=token) as reader,
    ):
        reader.wait(lambda: reader.hashes(token) == first, 20, "the first trade")
        slow.wait(lambda: slow.of("change", state="open"), 10, "the slow client")
        sent = first + running.trade(token, 150)
        reader.wait(lambda: reader.hashes(token) == sent, 20, "all trades at the other client")
        # Behind the last trade the slow client has heard of them too: a heartbeat a second.
        running.trade("ethereum:OTHER", 1)
        slow.go()
        slow.wait(lambda: sent[-1] in slow.hashes(token), 10, "the newest trade")
        told = set(slow.numbers(token))
        for gap in slow.of("gap", cause="slow_reader"):
            told |= set(range(gap["from_n"], gap["to_n"] + 1))
        assert slow.of("gap")
        assert told == set(reader.numbers(token))
        assert len(slow.hashes(token)) == len(set(slow.hashes(token)))


def test_a_refused_token_does_not_disturb_the_others(
    running: Running, language: str, tmp_path: Path
) -> None:
    token = f"ethereum:GOOD-{language}"
    sent = running.trade(token, 1)
    file = running.token(tmp_path / "token")
    settings = {"CHANNEL": "trades", "TOKENS": f"no-token,{token}"}
    with ClientProcess(language, running.url(), file, **settings) as client:
        client.wait(lambda: client.hashes(token) == sent, 20, "the trade")
        (refused,) = client.of("refused")
        assert (refused["code"], refused["token"]) == ("token_invalid", "no-token")
