"""From version 0.1 to this one, on what 0.1 left in Kafka, Redis and ClickHouse."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.schema import ensure_schema
from aggregator.contracts.stats import TokenStats
from aggregator.member.memory import MemoryTopic
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import load
from infra.embedded.stack import Stack
from tests.chaos.expected import Expected, logged_of
from tests.chaos.verdict import Findings, judge_owners
from tests.support import archive_rows
from tests.support.archived import Archive, MemoryArchiver, archiving, messages, token_at
from tests.support.oracle import Logged, Rules, decide, event_identity, home_of
from tests.support.processes import wait_until
from tests.support.service import Service, swap
from tests.support.upgrade import PARTITIONS, OldVersion

# Several engines and processes start here, which takes a busy machine some time.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

Sent = list[tuple[dict[str, Any], bool]]
"""An event, and whether it goes where librdkafka's default partitioner puts it."""


@pytest.fixture
def service(tmp_path: Path, stack: Stack, kept: Archive) -> Iterator[Service]:
    with archiving(tmp_path, stack, kept) as running:
        yield running


class _Upgraded:
    """What is sent after the switch, and the rows that it must add to the archive."""

    def __init__(self, old: OldVersion) -> None:
        self.old = old
        self.sent: Sent = []
        self.rows: Counter[tuple[str, str, str]] = Counter()
        self._new = 10_000

    def send(self, event: dict[str, Any], letter: str = "", *, away: bool, **fields: Any) -> None:
        """Note an event, and the letter of its row if it has one."""
        self.sent.append((event | fields, away))
        if letter:
            self.rows[event["tx_hash"], event["token"], letter] += 1

    def fresh(self, case: str, count: int) -> None:
        """Note swaps that 0.1 has not seen."""
        away = case.endswith("-away")
        for event in self.old.events(case)[:count]:
            self._new += 1
            self.send(json.loads(swap(self._new, token=event["token"])), "C", away=away)

    def everything(self) -> None:
        """What may come after a switch: all cases of the recording."""
        here, away = self.old.events("plain"), self.old.events("plain-away")
        for event in here[:10]:
            self.send(event, away=False)
        for number, event in enumerate(away[:8]):
            self.send(event, away=number < 5)
        for event in here[10:14]:
            self.send(event, "U", away=False, removed=True, amount_usd="1")
        for number, event in enumerate(away[8:12]):
            self.send(event, "U", away=number < 2, removed=True)
        self._late()
        self._open()
        for case in ("retracted", "retracted-away"):
            event, away_case = self.old.events(case)[0], case.endswith("-away")
            self.send(event, "C", away=away_case)
            self.send(event, "U", away=away_case, removed=True, amount_usd="3")
        self._moved()
        self._blocks()
        lost = {(row.tx_hash, row.token) for row in self.old.rows}
        for event in self.old.events("legs-again"):
            known = (event["tx_hash"], event["token"]) in lost
            self.send(event, "" if known else "C", away=False)
        self.fresh("plain", 8)
        self.fresh("plain-away", 4)

    def _late(self) -> None:
        late, away = self.old.events("late"), self.old.events("late-away")
        self.send(late[0], "U", away=False, removed=True)
        self.send(late[1], away=False)
        self.send(away[0], "U", away=True, removed=True)

    def _open(self) -> None:
        """Their retractions came before the switch."""
        for event in self.old.events("open"):
            self.send(event, "V", away=False)
        for number, event in enumerate(self.old.events("open-away")):
            self.send(event, "V", away=number == 0)

    def _moved(self) -> None:
        """Archived away from home, as the first of two."""
        moved = self.old.events("moved")
        self.send(moved[0], away=False)
        self.send(moved[1], "U", away=False, removed=True)

    def _blocks(self) -> None:
        (here,), (away,) = self.old.events("blocks"), self.old.events("blocks-away")
        self.send(here, "U", away=False, block_hash="0xb2", removed=True)
        self.send(away, away=True, block_hash="0xa1", removed=True)


def _produce(service: Service, sent: Sent) -> None:
    for event, away in sent:
        key = f"{event['chain']}:{event['token']}"
        partition = home_of(key, PARTITIONS, "crc32") if away else -1
        service.produce([json.dumps(event).encode()], key, partition)


def _log(service: Service) -> list[Logged]:
    return [
        logged_of(
            each.value,
            *each.place,
            each.timestamp,
            None if each.origin is None else [("origin", b"%d:%d" % each.origin)],
        )
        for each in messages(service.env["KAFKA_BOOTSTRAP"], service.topic, PARTITIONS)
    ]


def _window_faults(service: Service) -> list[str]:
    """Compare what REST shows with the oracle's windows of the present log."""
    expected = Expected(_log(service), Rules(homes=PARTITIONS))
    if faults := expected.forward_faults():
        return faults
    answer = service.get("/api/tokens/stats", ids=",".join(sorted(expected.tokens)))
    if answer.status_code != 200:
        return [answer.text]
    rows = msgspec.convert(answer.json()["tokens"], list[TokenStats])
    findings = Findings()
    judge_owners(expected, {(row.token_id, row.partition): row for row in rows}, findings)
    return findings.violations


def _wait_for_windows(service: Service, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while faults := _window_faults(service):
        assert time.monotonic() < deadline, "\n".join(faults[:20])
        time.sleep(0.2)


def _new_rows(kept: Archive) -> Counter[tuple[str, str, str]]:
    rows = kept.ask("SELECT tx_hash, token, toString(verdict) FROM raw_swaps WHERE topic_id != ''")
    return Counter(rows)


def _dead_letters(service: Service) -> int:
    return len(messages(service.env["KAFKA_BOOTSTRAP"], f"{service.topic}.dlq", partitions=1))


def _standing(log: list[Logged], lost: set[tuple[str, str]]) -> dict[Any, dict[str, Any]]:
    """Return the swaps that the oracle leaves standing, by identity, without the lost legs."""
    up: dict[Any, dict[str, Any]] = {}
    for each in decide(log, Rules(homes=PARTITIONS)):
        if each.letter in "CL":
            up[event_identity(each.logged.swap)] = each.logged.swap
        elif each.letter in "U":
            up.pop(event_identity(each.logged.swap), None)
    return {name: event for name, event in up.items() if (name[1], name[3]) not in lost}


def _check_archive(kept: Archive, log: list[Logged], lost: set[tuple[str, str]]) -> None:
    """Every identity nets to what the oracle says, and so do the sums of the views."""
    standing = _standing(log, lost)
    sums = kept.ask(
        "SELECT chain, tx_hash, log_index, token, toInt64(sum(sign)), sum(sign * amount_usd) "
        "FROM raw_swaps GROUP BY 1, 2, 3, 4 HAVING sum(sign) != 0"
    )
    assert {tuple(name): net for *name, net, _ in sums} == dict.fromkeys(standing, 1)
    assert {tuple(name): usd for *name, _, usd in sums} == {
        name: Decimal(event["amount_usd"]) for name, event in standing.items()
    }
    # A retraction of 0.1 took its own values out, and not those of its swap.
    left = kept.ask(
        "SELECT token, sum(usd) FROM (SELECT token, sum(sign * amount_usd) AS usd FROM raw_swaps "
        "WHERE topic_id = '' GROUP BY tx_hash, token HAVING sum(sign) = 0) GROUP BY token"
    )
    wanted = {token: (0, usd) for token, usd in left}
    for event in standing.values():
        trades, usd = wanted.get(event["token"], (0, Decimal(0)))
        wanted[event["token"]] = trades + 1, usd + Decimal(event["amount_usd"])
    for table in ("candles_1m", "daily_token_agg"):
        held = kept.ask(
            f"SELECT token, toInt64(sum(trades)), sum(volume_usd) FROM {table} GROUP BY 1"
        )
        assert {token: (trades, usd) for token, trades, usd in held if trades} == wanted


def test_an_upgrade_loses_nothing_and_counts_nothing_twice(
    service: Service, kept: Archive, tmp_path: Path
) -> None:
    old = OldVersion(service)
    old.load(kept, tmp_path / "schema")
    after = _Upgraded(old)
    first = service.archiver("first")
    service.aggregator(CLICKHOUSE_URL="")
    service.web()
    service.wait_ready(90)
    assert len(service.logged(first, "schema_applied")) >= 2
    assert _window_faults(service) == []
    assert _new_rows(kept) == Counter()
    assert _dead_letters(service) == 0  # 0.1 has rejected the bad record

    after.everything()
    _produce(service, after.sent)
    _wait_for_windows(service)
    wait_until(lambda: _new_rows(kept) == after.rows, 30, "the new rows")
    held = {(row.tx_hash, row.token) for row in old.rows}
    legs = {(each["tx_hash"], each["token"]) for each in old.events("legs")}
    lost = legs - held
    assert len(lost) == 1
    _check_archive(kept, _log(service), lost)

    # The next owner knows the old rows as well.
    first.terminate()
    assert first.wait(20) == 0
    service.archiver("second")
    for event in old.events("plain")[20:30] + old.events("moved")[2:]:
        after.send(event, away=False)
    for number, event in enumerate(old.events("plain-away")[12:20]):
        after.send(event, away=number % 2 == 0)
    repeats = after.sent[-19:]
    after.fresh("plain", 8)
    after.fresh("plain-away", 8)
    _produce(service, repeats + after.sent[-16:])
    wait_until(lambda: _new_rows(kept) == after.rows, 40, "the rows of new swaps")
    _wait_for_windows(service)
    _check_archive(kept, _log(service), lost)

    deleted = service.manage("delete_old_keys", "--delete")
    assert deleted.returncode == 0, deleted.stderr
    counts = {kind: int(n.split()[0]) for kind, n in _pairs(deleted.stdout)}
    assert counts["markers"] > 100
    assert counts["snapshots"] == counts["board rows"] == 2 * PARTITIONS
    assert counts["check-ins"] == PARTITIONS + 2
    _wait_for_windows(service)


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.strip().splitlines():
        kind, _, rest = line.partition(": ")
        yield kind, rest


def test_an_open_intent_of_the_old_version_is_refused(
    service: Service, kept: Archive, tmp_path: Path
) -> None:
    """Nothing is archived, on any partition, until 0.1 has completed its insert."""
    old = OldVersion(service)
    old.load(kept, tmp_path / "schema")
    intent = '[0,0,1796052210486,[[20787,0,0]],"c${Nk000620RR91"]'
    old.commit(group="ARCHIVER_GROUP", partition=2, offset=48, metadata=f"[0,48,[],{intent}]")
    plain = old.events("plain")
    _produce(service, [(plain[0], False)])
    refused = service.archiver("refused")
    assert refused.wait(60) != 0
    assert "start that version's archiver once more" in refused.log.read_text()
    assert _old_rows_only(kept)


def _old_rows_only(kept: Archive) -> bool:
    named = kept.ask(
        "SELECT count() FROM system.columns WHERE database = currentDatabase() "
        "AND table = 'raw_swaps' AND name = 'topic_id'"
    )
    return named == [(0,)] or not _new_rows(kept)


def test_a_partition_of_which_the_old_version_has_read_nothing(kept: Archive) -> None:
    """Its tokens were archived on another partition, before its log had a clock."""
    topic, at = MemoryTopic(2), wall_ms() - 60_000
    token = token_at(0, homes=2)
    config = load({"CLICKHOUSE_URL": kept.url})
    clickhouse = ClickHouseClient(kept.url)
    ensure_schema(clickhouse, config)
    clickhouse.close()
    add = archive_rows.Row(number=1, timestamp=at, token=token, partition=1)
    void = replace(add, number=2, verdict="V", sign=0)
    rows = [add, replace(void, removed=True), void, replace(void, number=3, removed=True)]
    archive_rows.insert(config, rows)
    values = [
        swap(row.number, token=token, timestamp=at, removed=row.removed, amount_usd="10.5")
        for row in rows
    ]
    for value in values:
        topic.append(1, value, timestamp=at)
    for partition, metadata in enumerate(("[null,0,[],null]", f"[{at},4,[],null]")):
        topic.group("archivers").committed[partition] = (4 * partition, metadata)
    # A repeat comes before the forwards of what 0.1 has read, and a swap whose removal it has read.
    topic.append(0, values[0])
    topic.append(0, swap(3, token=token, timestamp=at))
    for offset, value in enumerate(values):
        topic.append(0, value, headers=[("origin", f"1:{offset}:{at}".encode())])
    topic.append(0, swap(4, token=token))
    with MemoryArchiver(topic, kept) as archiver:
        wait_until(lambda: kept.count() == 6, 60, "a void swap and a new one")
        archiver.stop()
    new = _new_rows(kept)
    assert sorted(letter for _, _, letter in new.elements()) == ["C", "V"]
    sums = kept.ask("SELECT log_index, tx_hash, toInt8(sum(sign)) FROM raw_swaps GROUP BY 1, 2")
    assert sorted(net for *_, net in sums) == [0, 0, 1, 1]
