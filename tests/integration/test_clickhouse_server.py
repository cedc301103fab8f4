"""The embedded ClickHouse server as its Python driver sees it: what the project uses works.

Each test has its own database on the session's server; a test that kills a server has its own
server.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from clickhouse_driver import Client
from clickhouse_driver.block import ColumnOrientedBlock
from clickhouse_driver.errors import Error, NetworkError, ServerException
from clickhouse_driver.protocol import Compression

from infra.embedded.clickhouse import ClickHouse
from infra.embedded.ports import HOST
from infra.embedded.s3 import COLD_BUCKET, S3
from infra.embedded.stack import Stack
from tests.support.processes import wait_until

GONE = (Error, OSError, EOFError)
SLOW = "SELECT sum(sleepEachRow(0.05)) FROM numbers(200) SETTINGS max_block_size = 1"
Connect = Callable[..., Client]


@pytest.fixture
def connect(stack: Stack) -> Iterator[Connect]:
    """Make clients of a database that exists for this test."""
    database = f"test_{uuid4().hex[:8]}"
    clients: list[Client] = []

    def client(**options: Any) -> Client:
        options = {"database": database} | options
        clients.append(Client(HOST, stack.clickhouse.port, **options))
        return clients[-1]

    client(database="").execute(f"CREATE DATABASE {database}")
    yield client
    client(database="").execute(f"DROP DATABASE {database} SYNC")
    for each in clients:
        each.disconnect()


@pytest.fixture
def client(connect: Connect) -> Client:
    return connect()


COLUMNS: dict[str, list[Any]] = {
    "LowCardinality(String)": ["base", "solana"],
    "LowCardinality(Nullable(String))": [None, "WETH"],
    "String": ["", "ä" * 300],
    "Nullable(String)": ["0x1", None],
    "FixedString(16)": [b"0123456789abcdef", bytes(range(16))],
    "Int8": [-1, 1],
    "UInt64": [0, 2**64 - 1],
    "Nullable(UInt64)": [None, 7],
    "Int128": [-(2**120), 5],
    "Float64": [0.1, -1e300],
    "Nullable(Float64)": [None, 2.5],
    "Decimal(18, 6)": [Decimal("0.000001"), Decimal("-1.5")],
    "Decimal(76, 18)": [Decimal("123456789012345678901234567890.000000000000000001"), Decimal(0)],
    "Nullable(Decimal(18, 6))": [None, Decimal("10.500000")],
    "Enum8('buy' = 1, 'sell' = 2)": ["buy", "sell"],
    "DateTime64(3, 'UTC')": [
        dt.datetime(2026, 1, 2, 3, 4, 5, 678_000, dt.UTC),
        dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
    ],
    "Date": [dt.date(2026, 1, 2), dt.date(1970, 1, 1)],
    "Array(LowCardinality(String))": [["a", "b", "a"], []],
    "Array(Nullable(UInt8))": [[], [None, 3]],
    "Map(String, UInt16)": [{"k": 1, "l": 65_535}, {}],
    "Tuple(x UInt8, `y z` Array(String))": [(1, ["q"]), (2, [])],
    "Bool": [True, False],
}


def test_columns_come_back_as_they_were_inserted(client: Client) -> None:
    names = [f"c{number}" for number in range(len(COLUMNS))]
    declared = ", ".join(f"{name} {kind}" for name, kind in zip(names, COLUMNS, strict=True))
    client.execute(f"CREATE TABLE t (n UInt8, {declared}) ENGINE = MergeTree ORDER BY n")
    given = [[0, 1], *COLUMNS.values()]
    settings = {"strings_as_bytes": False}
    assert client.execute("INSERT INTO t VALUES", given, columnar=True, settings=settings) == 2
    found, described = client.execute(
        "SELECT * FROM t ORDER BY n", columnar=True, with_column_types=True
    )
    fixed = list(COLUMNS).index("FixedString(16)") + 1
    # the driver decodes a FixedString that is valid text
    found[fixed] = tuple(v.encode() if isinstance(v, str) else v for v in found[fixed])
    assert [list(column) for column in found] == given
    assert described == [("n", "UInt8"), *zip(names, COLUMNS, strict=True)]


def test_an_empty_result_has_its_columns(client: Client) -> None:
    query = "SELECT number AS n, toString(n) AS s FROM numbers(9) WHERE n > %(least)s"
    found = client.execute(query, {"least": 100}, with_column_types=True)
    assert found == ([], [("n", "UInt64"), ("s", "String")])


def test_rows_stream_while_the_query_runs(client: Client) -> None:
    rows = client.execute_iter(
        "SELECT number, sleepEachRow(0.001) FROM numbers(1000000000) SETTINGS max_block_size = 100",
        chunk_size=50,
    )
    assert next(rows)[0] == (0, 0)
    client.disconnect()


def test_a_large_result_is_complete_and_counted(client: Client) -> None:
    query = "SELECT number, toString(number) FROM numbers(300000)"
    seen = 0
    for number, text in client.execute_iter(query, settings={"max_block_size": 10_000}):
        assert (number, text) == (seen, str(seen))
        seen += 1
    assert seen == 300_000
    assert client.last_query.profile_info.rows == 300_000
    assert client.last_query.profile_info.blocks >= 30


def test_progress_is_what_was_read(client: Client) -> None:
    progress = client.execute_with_progress("SELECT sum(number) FROM numbers(200000000)")
    reported = list(progress)
    assert progress.get_result() == [(19_999_999_900_000_000,)]
    assert reported[-1][0] == 200_000_000
    assert client.last_query.progress.rows == 200_000_000
    assert client.last_query.progress.bytes == 1_600_000_000


def test_written_rows_are_reported(client: Client) -> None:
    client.execute("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    client.execute("INSERT INTO t VALUES", [list(range(1000))], columnar=True)
    assert client.last_query.progress.rows == 0
    assert client.execute("SELECT count() FROM t") == [(1000,)]


@pytest.mark.parametrize(
    ("insert", "rows", "expected"),
    [
        ("INSERT INTO t VALUES", [(1, "x")], [(1, "x", 2)]),
        ("insert into t (`s`, n) format Native", [("x", 1)], [(1, "x", 2)]),
        ("INSERT INTO TABLE t (n) SETTINGS max_threads = 1 VALUES", [(1,)], [(1, "none", 2)]),
        ("/* VALUES */ INSERT INTO t (n) -- (s)\n VALUES;", [{"n": 1}], [(1, "none", 2)]),
    ],
)
def test_inserts_are_understood(
    client: Client, insert: str, rows: list[Any], expected: list[Any]
) -> None:
    client.execute(
        "CREATE TABLE t (n UInt64, s String DEFAULT 'none', m UInt64 MATERIALIZED n * 2) "
        "ENGINE = MergeTree ORDER BY n"
    )
    assert client.execute(insert, rows) == len(rows)
    assert client.execute("SELECT n, s, m FROM t") == expected


def test_insert_select_and_other_databases(client: Client, connect: Connect) -> None:
    own = client.connection.database
    client.execute("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    client.execute("INSERT INTO t SELECT number FROM numbers(10)")
    client.execute("INSERT INTO t (n) WITH 5 AS k SELECT number + k FROM numbers(10)")
    client.execute("INSERT INTO FUNCTION null('n UInt64') SELECT n FROM t")
    elsewhere = connect(database="")
    assert elsewhere.execute(f"INSERT INTO {own}.t (n) VALUES", [(100,)]) == 1
    assert elsewhere.execute(f"SELECT count(), max(n) FROM {own}.t") == [(21, 100)]
    elsewhere.execute(f"USE {own}")
    assert elsewhere.execute("SELECT currentDatabase()") == [(own,)]
    assert elsewhere.execute("SHOW TABLES", with_column_types=True) == (
        [("t",)],
        [("name", "String")],
    )


def test_one_block_is_one_part(client: Client) -> None:
    client.execute("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    client.execute("SYSTEM STOP MERGES t")
    client.execute("INSERT INTO t VALUES", [list(range(300_000))], columnar=True)
    parts = client.execute(
        "SELECT rows FROM system.parts WHERE active AND database = currentDatabase()"
    )
    assert parts == [(300_000,)]


def test_a_repeated_token_changes_neither_table_nor_view(client: Client) -> None:
    window = "SETTINGS non_replicated_deduplication_window = 100"
    client.execute(f"CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n {window}")
    client.execute(
        f"CREATE TABLE s (k UInt8, n UInt64) ENGINE = SummingMergeTree ORDER BY k {window}"
    )
    client.execute(
        "CREATE MATERIALIZED VIEW v TO s AS SELECT 1 AS k, sum(n) AS n FROM t GROUP BY k"
    )
    deduplicate = {"deduplicate_blocks_in_dependent_materialized_views": 1}

    def insert(token: str, value: int) -> None:
        settings = {"insert_deduplication_token": token} | deduplicate
        client.execute("INSERT INTO t VALUES", [[value] * 3], columnar=True, settings=settings)

    for token, value in (("a", 1), ("a", 1), ("b", 1), ("a", 50)):
        insert(token, value)
    assert client.execute("SELECT count(), (SELECT sum(n) FROM s) FROM t") == [(6, 6)]


def test_settings_hold_for_one_query_and_set_for_the_session(client: Client) -> None:
    ask = "SELECT getSetting('max_threads'), getSetting('max_block_size')"
    client.execute("SET max_threads = 3")
    assert client.execute(ask, settings={"max_threads": 1, "max_block_size": 77}) == [(1, 77)]
    ((threads, block),) = client.execute(ask)
    assert threads == 3
    assert block != 77
    client.execute("SET max_threads = 2", settings={"max_threads": 1})
    assert client.execute(ask)[0][0] == 2


def test_a_setting_with_a_bad_value_fails_the_query_and_leaves_none(client: Client) -> None:
    with pytest.raises(ServerException, match="Cannot parse input"):
        client.execute("SELECT 1", settings={"max_block_size": 77, "max_threads": "many"})
    assert client.execute("SELECT getSetting('max_block_size') != 77") == [(1,)]


def test_an_unknown_setting_is_ignored_unless_it_is_important(connect: Connect) -> None:
    assert connect().execute("SELECT 1", settings={"no_such_setting": 1}) == [(1,)]
    with pytest.raises(ServerException, match="UNKNOWN_SETTING") as caught:
        connect(settings_is_important=True).execute("SELECT 1", settings={"no_such_setting": 1})
    assert caught.value.code == 115


@pytest.mark.parametrize("value", ["", "it's", "a\\b\n\t\0", "NULL", "'; DROP TABLE t --", "é😀"])
def test_parameters_are_values_wherever_they_are_put_in(connect: Connect, value: str) -> None:
    assert connect().execute("SELECT %(v)s, length(%(v)s)", {"v": value})[0][0] == value
    on_server = connect(settings={"server_side_params": True})
    found = on_server.execute("SELECT {v:String}, {v:String} = {v:String}", {"v": value})
    assert found == [(value, 1)]


def test_parameters_of_other_types(connect: Connect) -> None:
    client = connect(settings={"server_side_params": True})
    query = (
        "SELECT {n:UInt64}, {d:Date}, {t:DateTime}, {l:Array(Nullable(String))}, {x:Decimal(9,2)}"
    )
    moment = dt.datetime(2026, 1, 2, 3, 4, 5)
    given = {
        "n": 2**63, "d": moment.date(), "t": moment, "l": ["a'b", None], "x": Decimal("1.25")
    }  # fmt: skip
    assert client.execute(query, given) == [tuple(given.values())]
    with pytest.raises(ServerException, match="UNKNOWN_QUERY_PARAMETER"):
        client.execute(query, {"n": 1})


@pytest.mark.parametrize(
    ("query", "code", "name"),
    [
        ("SELECT * FROM nope", 60, "UNKNOWN_TABLE"),
        ("SELECT nope FROM system.one", 47, "UNKNOWN_IDENTIFIER"),
        ("SELEC 1", 62, "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", 62, "SYNTAX_ERROR"),
        ("", 62, "SYNTAX_ERROR"),
        ("USE nope", 81, "UNKNOWN_DATABASE"),
        ("SELECT throwIf(number = 150000) FROM numbers(200000)", 395, "FUNCTION_THROW_IF"),
        ("CREATE TABLE t (n UInt64) ENGINE = Nope", 56, "UNKNOWN_STORAGE"),
        ("SELECT toUInt8('x')", 6, "CANNOT_PARSE_TEXT"),
    ],
)
def test_exceptions_have_codes_and_names_of_clickhouse(
    client: Client, query: str, code: int, name: str
) -> None:
    with pytest.raises(ServerException, match=name) as caught:
        client.execute(query)
    assert caught.value.code == code
    assert client.execute("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    ("insert", "code"),
    [("INSERT INTO nope VALUES", 60), ("INSERT INTO t (n, nope) VALUES", 16)],
)
def test_an_insert_that_is_refused_says_why(client: Client, insert: str, code: int) -> None:
    client.execute("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    with pytest.raises(ServerException) as caught:
        client.execute(insert, [(1, 2)])
    assert caught.value.code == code
    assert client.execute("SELECT count() FROM t") == [(0,)]


def test_an_insert_that_fails_in_the_engine_leaves_nothing(client: Client) -> None:
    client.execute(
        "CREATE TABLE t (n UInt64, CONSTRAINT small CHECK n < 5) ENGINE = MergeTree ORDER BY n"
    )
    with pytest.raises(ServerException, match="VIOLATED_CONSTRAINT") as caught:
        client.execute("INSERT INTO t VALUES", [(1,), (9,)])
    assert caught.value.code == 469
    assert client.execute("SELECT count() FROM t") == [(0,)]


def test_an_insert_of_a_client_that_leaves_is_dropped(connect: Connect) -> None:
    leaving, watching, table = connect(), connect(), f"t_{uuid4().hex}"
    watching.execute(f"CREATE TABLE {table} (n UInt64) ENGINE = MergeTree ORDER BY n")
    leaving.execute("SELECT 1")
    connection = leaving.connection
    connection.send_query(f"INSERT INTO {table} VALUES")
    connection.send_external_tables(None)
    sample = leaving.receive_sample_block()
    connection.send_data(ColumnOrientedBlock(sample.columns_with_types, [[1, 2, 3]]))
    leaving.receive_profile_events()
    wait_until(lambda: running(watching, table) == 1, 5, "the insert")
    leaving.disconnect()
    wait_until(lambda: running(watching, table) == 0, 5, "its end")
    assert watching.execute(f"SELECT count() FROM {table}") == [(0,)]


@pytest.mark.parametrize(
    ("query", "settings", "named"),
    [
        ("SELECT 1 FORMAT JSON", {}, "FORMAT"),
        ("SELECT 1 INTO OUTFILE 'x'", {}, "files of the client"),
        ("SELECT n, count() FROM t GROUP BY n WITH TOTALS", {}, "WITH TOTALS"),
        ("INSERT INTO t VALUES (1)", {}, "rows in the text of an INSERT"),
        ("INSERT INTO FUNCTION null('n UInt8') VALUES", {}, "INSERT INTO FUNCTION"),
        ("INSERT INTO t (* EXCEPT(n)) VALUES", {}, "name each column"),
        ("KILL QUERY WHERE 1", {}, "KILL"),
        ("SELECT 1", {"extremes": 1}, "extremes"),
        ("SELECT 1", {"send_logs_level": "trace"}, "send_logs_level"),
        ("SELECT 1 SETTINGS async_insert = 1", {}, "async_insert"),
        ("SET log_comment = 'x'", {}, "log_comment"),
        ("SELECT sumState(n) FROM t", {}, r"AggregateFunction\(sum, UInt64\)"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    client: Client, query: str, settings: dict[str, Any], named: str
) -> None:
    client.execute("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    client.execute("INSERT INTO t VALUES", [(1,)])
    with pytest.raises(ServerException, match=rf"does not support.*{named}") as caught:
        client.execute(query, settings=settings)
    assert caught.value.code == 48
    assert client.execute("SELECT count() FROM t") == [(1,)]


def test_compression_external_tables_and_old_clients_are_refused(connect: Connect) -> None:
    compressing = connect()
    compressing.execute("SELECT 1")
    compressing.connection.compression = Compression.ENABLED
    with pytest.raises(ServerException, match="does not support compression"):
        compressing.execute("SELECT 1")
    tables = [{"name": "e", "structure": [("n", "UInt8")], "data": [{"n": 1}]}]
    with pytest.raises(ServerException, match="does not support external tables"):
        connect().execute("SELECT * FROM e", external_tables=tables)
    with pytest.raises(ServerException, match="revision 54440"):
        connect(client_revision=54440).execute("SELECT 1")


@pytest.mark.parametrize(
    ("options", "code"),
    [({"password": "guess"}, 516), ({"user": "root"}, 516), ({"database": "nope"}, 81)],
)
def test_a_wrong_user_password_or_database_is_refused(
    connect: Connect, options: dict[str, str], code: int
) -> None:
    with pytest.raises(ServerException) as caught:
        connect(**options).execute("SELECT 1")
    assert caught.value.code == code


def test_another_protocol_is_disconnected(stack: Stack) -> None:
    with socket.create_connection((HOST, stack.clickhouse.port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(100) == b""


def test_ping(client: Client) -> None:
    client.execute("SELECT 1")
    assert client.connection.ping()
    assert client.execute("SELECT 1") == [(1,)]


def test_selects_run_beside_each_other_and_beside_an_insert(connect: Connect) -> None:
    connect().execute("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    sleeping = "SELECT sum(sleepEachRow(0.1)) FROM numbers(10) SETTINGS max_block_size = 1"
    clients = [connect() for _ in range(3)]
    threads = [threading.Thread(target=each.execute, args=(sleeping,)) for each in clients]
    inserting = connect()
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    inserting.execute("INSERT INTO t VALUES", [list(range(1000))], columnar=True)
    assert connect().execute("SELECT count() FROM t") == [(1000,)]
    assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()
    assert time.monotonic() - begun < 2.5  # run serially they take 3 s


def test_a_query_has_a_time_limit(client: Client) -> None:
    begun = time.monotonic()
    with pytest.raises(ServerException, match="TIMEOUT_EXCEEDED") as caught:
        client.execute(SLOW, settings={"max_execution_time": 0.3})
    assert caught.value.code == 159
    assert time.monotonic() - begun < 5


def running(client: Client, mark: str) -> int:
    """Return how many queries with `mark` in their text run now."""
    queries = client.execute("SELECT query FROM system.processes")
    return sum(mark in query for (query,) in queries)


@pytest.mark.parametrize("rows", ["sum(sleepEachRow(0.05))", "number, sleepEachRow(0.05)"])
def test_a_client_that_leaves_ends_its_query(connect: Connect, rows: str) -> None:
    mark = uuid4().hex
    left, watching = connect(), connect()
    query = f"SELECT {rows}, '{mark}' FROM numbers(2000) SETTINGS max_block_size = 1"
    left.execute_with_progress(query)  # sends the query and reads nothing
    wait_until(lambda: running(watching, mark) == 1, 5, "the query")
    left.disconnect()
    wait_until(lambda: running(watching, mark) == 0, 5, "its end")


def test_a_cancelled_query_ends_and_its_connection_goes_on(connect: Connect) -> None:
    client, watching, mark = connect(), connect(), uuid4().hex
    progress = client.execute_with_progress(f"SELECT '{mark}', {SLOW.removeprefix('SELECT ')}")
    wait_until(lambda: running(watching, mark) == 1, 5, "the query")
    begun = time.monotonic()
    client.cancel()
    assert time.monotonic() - begun < 3  # it would take 10 s
    assert running(watching, mark) == 0
    del progress
    assert client.execute("SELECT 1") == [(1,)]


def test_query_ids(connect: Connect) -> None:
    client, other, query_id = connect(), connect(), uuid4().hex
    client.execute_with_progress(SLOW, query_id=query_id)
    asked = "SELECT count() FROM system.processes WHERE endsWith(Settings['log_comment'], %(id)s)"
    wait_until(lambda: other.execute(asked, {"id": query_id}) == [(1,)], 5, "the query")
    with pytest.raises(ServerException, match="is already running") as caught:
        other.execute("SELECT 1", query_id=query_id)
    assert caught.value.code == 216


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path, only=(S3, ClickHouse)) as running:
        yield running


@pytest.fixture
def its_client(own: Stack) -> Iterator[Client]:
    with Client(HOST, own.clickhouse.port) as client:
        yield client


def test_what_was_inserted_outlives_a_kill(own: Stack, its_client: Client) -> None:
    client = its_client
    client.execute(
        "CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n "
        "SETTINGS non_replicated_deduplication_window = 100"
    )
    token = {"insert_deduplication_token": "a"}
    client.execute("INSERT INTO t VALUES", [list(range(1000))], columnar=True, settings=token)
    own.clickhouse.kill()
    with pytest.raises(NetworkError), Client(HOST, own.clickhouse.port) as other:
        other.execute("SELECT 1")
    own.clickhouse.start()
    assert client.execute("SELECT count() FROM t") == [(1000,)]
    client.execute("INSERT INTO t VALUES", [list(range(1000))], columnar=True, settings=token)
    assert client.execute("SELECT count() FROM t") == [(1000,)]


def test_nothing_half_written_is_seen_after_a_kill(own: Stack, its_client: Client) -> None:
    """Killed at many moments of an insert: each batch is there completely or not at all."""
    client = its_client
    client.execute("CREATE TABLE t (batch UInt32, n UInt64) ENGINE = MergeTree ORDER BY n")
    rows, answered = 20_000, set()

    def insert(batch: int) -> None:
        columns = [[batch] * rows, list(range(rows))]
        with Client(HOST, own.clickhouse.port) as mine, contextlib.suppress(*GONE):
            mine.execute("INSERT INTO t VALUES", columns, columnar=True)
            answered.add(batch)

    for batch in range(6):
        thread = threading.Thread(target=insert, args=(batch,))
        thread.start()
        time.sleep(0.004 * batch)  # varies the moment of the kill
        own.clickhouse.kill()
        thread.join()
        own.clickhouse.start()
        found = dict(client.execute("SELECT batch, count() FROM t GROUP BY batch"))
        assert set(found.values()) <= {rows}
        assert answered <= set(found)
    checked = client.execute("CHECK TABLE t")
    assert [passed for _, passed, _ in checked] == [1] * len(found)


def test_an_orderly_stop_ends_what_runs(own: Stack, its_client: Client) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        with Client(HOST, own.clickhouse.port) as slow:
            try:
                slow.execute(SLOW)
            except GONE as error:
                failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    client = its_client
    wait_until(lambda: running(client, "numbers(200)") == 1, 5, "the query")
    begun = time.monotonic()
    own.clickhouse.stop()
    thread.join()
    assert len(failures) == 1
    assert time.monotonic() - begun < 5
    assert "stopping" in own.clickhouse.log.read_text()


def test_old_parts_move_to_the_bucket_and_are_read_from_there(
    own: Stack, its_client: Client
) -> None:
    client = its_client
    client.execute(
        "CREATE TABLE t (at DateTime, n UInt64, s String) ENGINE = MergeTree ORDER BY n "
        "PARTITION BY toDate(at) TTL at + INTERVAL 1 DAY TO VOLUME 'cold' "
        "SETTINGS storage_policy = 'tiered', merge_with_ttl_timeout = 0"
    )
    bucket = own.s3.data / COLD_BUCKET
    assert stored_bytes(bucket) == 0
    old, new = dt.datetime.now() - dt.timedelta(days=2), dt.datetime.now()
    for moment in (old, new):
        texts = [uuid4().hex for _ in range(10_000)]
        client.execute(
            "INSERT INTO t VALUES", [[moment] * 10_000, list(range(10_000)), texts], columnar=True
        )
    on_disks = (
        "SELECT disk_name, sum(rows) FROM system.parts WHERE active AND table = 't' GROUP BY 1"
    )
    expected = {"cold": 10_000, "default": 10_000}
    wait_until(lambda: dict(client.execute(on_disks)) == expected, 20, "the move to the bucket")
    assert stored_bytes(bucket) > 300_000

    asked = "SELECT count(), sum(n), uniqExact(s) FROM t"
    assert client.execute(asked) == [(20_000, 99_990_000, 20_000)]
    own.clickhouse.kill()
    own.clickhouse.start()
    assert client.execute(asked) == [(20_000, 99_990_000, 20_000)]
    own.s3.kill()
    assert client.execute("SELECT uniqExact(s) FROM t WHERE at > now() - 3600") == [(10_000,)]
    with pytest.raises(ServerException, match="S3_ERROR"):
        client.execute("SELECT uniqExact(reverse(s)) FROM t")
    own.s3.start()
    assert client.execute(asked) == [(20_000, 99_990_000, 20_000)]


def stored_bytes(bucket: Path) -> int:
    return sum(file.stat().st_size for file in bucket.rglob("*") if file.is_file())
