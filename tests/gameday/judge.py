"""The end of a game: waits until all work is done, reads the log back, and compares."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from clickhouse_driver import Client as ClickHouseClient
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.gameday import verdict
from tests.gameday.events import PARTITIONS
from tests.gameday.helper import Helper
from tests.gameday.site import WEBS, Site, until
from tests.gameday.tally import MINUTE, Tally
from tests.support.oracle import origin_of

TOPIC: Final = "raw-swaps"
_AT_REST_S: Final = 180
_AGREES_S: Final = 120
_SHOWN: Final = 20
Say = Callable[[str], None]


@dataclass
class Outcome:
    """How many things were compared, and what was wrong, in words."""

    compared: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str, count: int, faults: Iterable[str]) -> None:
        """Record a comparison of `count` things and the faults it found."""
        found = list(faults)
        self.compared[what] = self.compared.get(what, 0) + count
        self.wrong += found[:_SHOWN]
        if len(found) > _SHOWN:
            self.wrong.append(f"{what}: {len(found) - _SHOWN} more")


def judge(site: Site, crowd: Helper, say: Say) -> tuple[Outcome, Tally]:
    """Compare everything, after the last record was sent."""
    outcome = Outcome()
    tally = read_back(site, say)
    ends = {p: _end(site, p) for p in range(PARTITIONS)}
    if not until(lambda: _counted(site, ends), _AT_REST_S):
        outcome.wrong.append(f"stuck: not every swap is counted within {_AT_REST_S} s of the last")
    if not until(lambda: _archived(site, ends), _AT_REST_S):
        outcome.wrong.append(f"stuck: not every swap is archived within {_AT_REST_S} s of the last")
    say("at rest; comparing")
    _windows(site, tally, outcome)
    _clients(site, crowd, tally, outcome)
    _archive(site, tally, outcome)
    _history(site, tally, outcome)
    _dead_letters(site, tally, outcome)
    lost = sorted(tally.misplaced - tally.forwarded)
    faults = (
        [f"forwards: {len(lost)} misplaced records never came home: {lost[:5]}"] if lost else []
    )
    outcome.add("forwarded records", len(tally.misplaced), faults)
    return outcome, tally


# --- the log ---


def _consumer(site: Site) -> Consumer:
    settings = {"bootstrap.servers": site.bootstrap, "group.id": "read-back", "log_level": 0}
    return Consumer({**settings, "enable.auto.commit": False, "auto.offset.reset": "error"})


def _end(site: Site, partition: int, topic: str = TOPIC) -> int:
    consumer = _consumer(site)
    try:
        return int(consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)[1])
    finally:
        consumer.close()


def _records(site: Site, topic: str, partition: int) -> Iterable[Any]:
    end = _end(site, partition, topic)
    consumer = _consumer(site)
    try:
        consumer.assign([TopicPartition(topic, partition, 0)])
        last, deadline = -1, time.monotonic() + 120
        while last < end - 1:
            assert time.monotonic() < deadline, f"{topic} [{partition}] cannot be read back"
            for message in consumer.consume(5_000, 0.5):
                if message.error() is None:
                    last = message.offset()
                    deadline = time.monotonic() + 120
                    yield message
    finally:
        consumer.close()


def read_back(site: Site, say: Say) -> Tally:
    """Return the tally of the whole log."""
    tally = Tally()
    for partition in range(PARTITIONS):
        for each in _records(site, TOPIC, partition):
            origin = origin_of(each.headers())
            tally.add(partition, each.offset(), each.timestamp()[1], each.value(), origin)
    say(f"{tally.records:,} records read back: {tally.counts}, {len(tally.dead)} dead letters")
    return tally


def _dead_letters(site: Site, tally: Tally, outcome: Outcome) -> None:
    found = set()
    try:
        for letter in _records(site, f"{TOPIC}.dlq", 0):
            headers = {name: value.decode() for name, value in letter.headers() or []}
            found.add((int(headers["source-partition"]), int(headers["source-offset"])))
    except KafkaException as error:
        outcome.wrong.append(f"dead letters cannot be read: {error}")
    missing, extra = tally.dead - found, found - tally.dead
    faults = [f"dead letters: {sorted(missing)[:5]} missing"] if missing else []
    faults += [f"dead letters: {sorted(extra)[:5]} too many"] if extra else []
    outcome.add("dead letters", len(tally.dead), faults)


# --- at rest ---


def _counted(site: Site, ends: dict[int, int]) -> bool:
    for node in WEBS:
        answer = site.readiness(node)
        if not answer["ready"]:
            return False
        shown = {each["partition"]: each["owner_next_offset"] for each in answer["partitions"]}
        if any((shown.get(p) or 0) < end for p, end in ends.items()):
            return False
    return True


def _archived(site: Site, ends: dict[int, int]) -> bool:
    shown = {each["partition"]: each["next_offset"] for each in site.archive_status()}
    return all((shown.get(p) or 0) >= end for p, end in ends.items())


# --- what is shown ---


def rest_rows(site: Site, node: str, token_ids: list[str]) -> list[verdict.Row]:
    """Return the stats of all tokens from one web node."""
    rows: list[verdict.Row] = []
    for start in range(0, len(token_ids), 100):
        answer = site.ask(node, "/api/tokens/stats", ids=",".join(token_ids[start : start + 100]))
        assert answer.status_code == 200, answer.text
        rows += answer.json()["tokens"]
    return rows


def _windows(site: Site, tally: Tally, outcome: Outcome) -> None:
    for node in WEBS:
        shown = _Shown(site, node, tally)
        # A minute may pass between the rows, and the last swaps may not be shown yet.
        until(shown.right, _AGREES_S)
        outcome.add("rows of REST", shown.count, shown.faults)


class _Shown:
    """What one web node shows, and what is wrong with it."""

    def __init__(self, site: Site, node: str, tally: Tally) -> None:
        self._site, self._node, self._tally = site, node, tally
        self.faults: list[str] = []
        self.count = 0

    def right(self) -> bool:
        """Request all tokens again; return whether all are right."""
        try:
            rows = rest_rows(self._site, self._node, sorted(self._tally.tokens))
        except (httpx.TransportError, AssertionError) as error:
            self.faults = [f"{self._node}: no answer: {error}"]
            return False
        missing = set(self._tally.tokens) - {row["token_id"] for row in rows}
        found = [f"{token} is not shown" for token in sorted(missing)]
        for row in rows:
            found += verdict.row_faults(self._tally, row)
            if row["stale"]:
                found.append(f"{row['token_id']} is stale")
        self.faults = [f"{self._node}: {fault}" for fault in found]
        self.count = len(rows)
        return not self.faults


def _clients(site: Site, crowd: Helper, tally: Tally, outcome: Outcome) -> None:
    """Every client holds what REST shows, or newer, and each number matches the log."""
    file = site.directory / "held.json"
    faults: list[str] = []
    counts: dict[str, int] = {}
    clients: list[dict[str, Any]] = []

    def right() -> bool:
        try:
            rows = {row["token_id"]: row for row in rest_rows(site, WEBS[0], sorted(tally.tokens))}
        except (httpx.TransportError, AssertionError) as error:
            faults[:] = [f"{WEBS[0]}: no answer: {error}"]
            return False
        held = _dump(crowd, file)
        clients[:] = held["clients"]
        faults[:], found = _client_faults(tally, rows, held)
        counts.clear()
        counts.update(found)
        return not faults

    until(right, _AGREES_S)
    outcome.add("clients", len(clients), [])
    for name, count in counts.items():
        outcome.add(name, count, [])
    outcome.add("clients", 0, faults)
    outcome.add("clients", 0, [said for client in clients for said in client["wrong"]])


def _dump(crowd: Helper, file: Path) -> dict[str, Any]:
    before = len(crowd.lines)
    crowd.order("dump", file=str(file))
    crowd.wait(lambda line: "dumped" in line and crowd.lines.index(line) >= before, 60, "a dump")
    held: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    return held


def _client_faults(
    tally: Tally, rest: dict[str, verdict.Row], held: dict[str, Any]
) -> tuple[list[str], dict[str, int]]:
    faults: list[str] = []
    counts = {"rows of clients": 0, "candles of clients": 0, "trades of clients": 0}
    judged: dict[tuple[str, int, int, int], list[str]] = {}
    newest: dict[str, list[int | None]] = {}
    for client in held["clients"]:
        name = client["name"]
        for token_id in client["held"]:
            row = client["rows"].get(token_id)
            if row is None:
                faults.append(f"{name}: {token_id} was never sent")
                continue
            counts["rows of clients"] += 1
            position = (row["epoch"], row["seq"])
            if position < (rest[token_id]["epoch"], rest[token_id]["seq"]):
                faults.append(f"{name}: {token_id} is older than on REST")
            key = (token_id, *position, row["as_of"])
            if key not in judged:
                judged[key] = verdict.row_faults(tally, row)
            faults += [f"{name}: {fault}" for fault in judged[key]]
            if row["stale"]:
                faults.append(f"{name}: {token_id} is stale")
        for token_id, candles in client["candles"].items():
            counts["candles of clients"] += len(candles)
            as_of = rest[token_id]["as_of"] + MINUTE
            found = verdict.candle_faults(tally, token_id, candles, as_of)
            faults += [f"{name}: {fault}" for fault in found]
        for token_id, last in client["newest"].items():
            newest.setdefault(token_id, []).append(last)
    for token_id, sent in held["trades"].items():
        counts["trades of clients"] += len(sent)
        faults += verdict.stream_faults(tally, token_id, sent, newest.get(token_id, []))
    return faults, counts


# --- the archive ---


def _archive(site: Site, tally: Tally, outcome: Outcome) -> None:
    with ClickHouseClient.from_url(site.engines.clickhouse.url) as client:
        for partition in range(PARTITIONS):
            found = client.execute(
                "SELECT `offset`, toInt8(sign) FROM raw_swaps WHERE `partition` = %(p)s "
                "AND chain != '' ORDER BY `offset`",
                {"p": partition},
                columnar=True,
            )
            offsets, signs = found or ([], [])
            faults = verdict.archive_rows_faults(tally, partition, offsets, signs)
            outcome.add("rows of raw_swaps", len(offsets), faults)
        for table, start, length_s in (
            ("daily_token_agg", "toInt64(toUnixTimestamp(toDateTime(day, 'UTC')))", 86_400),
            ("candles_1m", "toInt64(toUnixTimestamp(minute))", 60),
        ):
            sums = client.execute(
                f"SELECT concat(chain, ':', token), {start}, sum(trades), sum(volume_usd), "
                f"sum(buy_volume_usd), sum(volume_token) FROM {table} WHERE chain != '' "
                "GROUP BY 1, 2"
            )
            faults = verdict.archived_sums_faults(tally, table, length_s, sums)
            outcome.add(f"rows of {table}", len(sums), faults)
        cold = client.execute(
            "SELECT count(), sum(rows) FROM system.parts WHERE active AND disk_name = 'cold' "
            "AND table = 'raw_swaps'"
        )[0]
        outcome.compared["parts of raw_swaps on S3"] = cold[0]
        outcome.compared["rows of raw_swaps on S3"] = cold[1]


def _history(site: Site, tally: Tally, outcome: Outcome) -> None:
    """Compare REST's candles and days on both nodes, from the busiest to the quietest token."""
    archived = [token_id for token_id, token in tally.tokens.items() if token.archived]
    ordered = sorted(archived, key=lambda token_id: len(tally.tokens[token_id].stream))
    chosen = ordered[:: max(1, len(ordered) // 10)]
    for node in WEBS:
        for token_id in chosen:
            minutes = tally.tokens[token_id].archived
            since, to = min(minutes) * MINUTE, (max(minutes) + 1) * MINUTE
            span = {"interval": "1m", "from": since, "to": to}
            candles = _answer(site, node, f"/api/tokens/{token_id}/candles", **span)
            found = candles.get("candles", [])
            faults = verdict.rest_candle_faults(tally, token_id, found)
            outcome.add("candles of REST", len(found), faults)
            days = _answer(site, node, f"/api/tokens/{token_id}/daily").get("days", [])
            faults = verdict.rest_daily_faults(tally, token_id, days)
            outcome.add("days of REST", len(days), faults)


def _answer(site: Site, node: str, path: str, **params: Any) -> dict[str, Any]:
    """Return the answer, with retries while the machine is busy; empty if none arrives."""
    found: dict[str, Any] = {}

    def answered() -> bool:
        try:
            answer = site.ask(node, path, **params)
        except httpx.TransportError:
            return False
        if answer.status_code == 200:
            found.update(answer.json())
        return answer.status_code == 200

    until(answered, _AGREES_S)
    return found
