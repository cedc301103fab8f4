"""The settings: read from the environment once, into one frozen object; all faults are reported.

No other module reads the environment. Reading the settings opens only the files that hold secrets
(`DJANGO_SECRET_KEY_FILE` and the like); the part that uses any other file opens it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aggregator.contracts.names import AGGREGATOR_GROUP, ARCHIVER_GROUP
from aggregator.runtime.errors import ConfigError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)\Z")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST_WINDOW_MINUTES = 7 * 24 * 60

# Settings that hold a secret, or an address with a password in it.
SECRETS = frozenset(
    {"DJANGO_SECRET_KEY", "DATABASE_URL", "REDIS_URL", "NATS_URL", "CLICKHOUSE_URL"}
)


def duration_ms(text: str) -> int:
    """Return `"250ms"`, `"2s"`, `"5m"`, `"24h"`, `"7d"` as milliseconds; else raise ValueError."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError("give a duration such as 250ms, 2s, 5m, 24h or 7d")
    return round(float(match[1]) * _UNIT_MS[match[2]])


def duration_text(ms: int) -> str:
    """Write a duration as a setting: a whole number of the largest unit that divides it."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"


def _positive_duration(text: str) -> int:
    value = duration_ms(text)
    if value <= 0:
        raise ValueError("give a duration above 0")
    return value


def _optional_duration(text: str) -> int:
    """Return a duration in ms, 0 for an empty text."""
    return _positive_duration(text) if text else 0


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or not low <= int(text) <= high:
            raise ValueError(f"give a whole number from {low} to {high}")
        return int(text)

    return parse


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"give one of {', '.join(allowed)}")
        return text

    return parse


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", text):
        raise ValueError("give a name of letters, digits, '.', '_' and '-'")
    return text


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("give a text that is not empty")
    return text


def _attempts(text: str) -> tuple[int, int]:
    count, _, within = text.partition("/")
    if not re.fullmatch(r"[1-9]\d{0,5}", count) or not re.fullmatch(r"[1-9]\d{0,3}[smh]", within):
        raise ValueError("give a number of attempts and a duration, such as 10/5m")
    return int(count), duration_ms(within) // 1000


def _slow_after(text: str) -> int:
    # A candle update repeats 30 s of changes and may come once in 10 s: a socket that was slow for
    # longer than this could miss a change.
    value = _positive_duration(text)
    if value > 15_000:
        raise ValueError("give a duration up to 15s")
    return value


def _share(text: str) -> float:
    if not re.fullmatch(r"0|1|[01]?\.\d{1,9}", text) or float(text) > 1:
        raise ValueError("give a number from 0 to 1, such as 0.01")
    return float(text)


def _flag(text: str) -> bool:
    if text.lower() not in {"0", "1", "true", "false"}:
        raise ValueError("give 1 or 0")
    return text.lower() in {"1", "true"}


def _bootstrap(text: str) -> str:
    for server in text.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError("give host:port, or several with commas between")
    return text


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        parts = urlsplit(text)
        try:
            usable = parts.scheme in schemes and parts.hostname and (parts.port or 1)
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(f"give a URL such as {schemes[0]}://127.0.0.1:1234")
        return text

    return parse


def _optional_url(*schemes: str) -> Callable[[str], str]:
    parse = _url(*schemes)
    return lambda text: parse(text) if text else ""


def _database_url(text: str) -> str:
    if not text:
        return ""
    if len(urlsplit(_url("postgresql", "postgres")(text)).path) < 2:
        raise ValueError("give the database's name: postgresql://user:password@host:5432/name")
    return text


def _optional_path(text: str) -> Path | None:
    return Path(text) if text else None


def _optional_name(text: str) -> str:
    return _name(text) if text else ""


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part) for part in _names(text))


def _jwks_url(text: str) -> str:
    if not text:
        return ""
    parts = urlsplit(_url("https", "http")(text))
    if parts.username or parts.password or parts.fragment:
        raise ValueError("give a URL without user, password and fragment")
    if parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError("give an https URL; http is for localhost only")
    return text


def _windows(text: str) -> tuple[tuple[str, int], ...]:
    windows = []
    for name in _names(text):
        minutes, rest = divmod(duration_ms(name), 60_000)
        if rest or not 1 <= minutes <= _LONGEST_WINDOW_MINUTES:
            raise ValueError(f"{name}: give whole minutes from 1m to 7d, such as 5m,1h,24h")
        windows.append((name, minutes))
    if not windows or len({minutes for _, minutes in windows}) != len(windows):
        raise ValueError("give at least one window, each length once, such as 5m,1h,24h")
    return tuple(windows)


def setting(env: str, default: str | None, parse: Callable[[str], Any], doc: str) -> Any:
    """Return a field of `Config`: its variable, its default in the written form, its meaning."""
    metadata = {"env": env, "default": default, "parse": parse, "doc": doc}
    return field(metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting of every process. Durations are in ms."""

    kafka_bootstrap: str = setting(
        "KAFKA_BOOTSTRAP", "127.0.0.1:9092", _bootstrap, "Kafka brokers, host:port with commas"
    )
    kafka_topic: str = setting("KAFKA_TOPIC", "raw-swaps", _name, "topic of the swaps")
    kafka_dlq_topic: str = setting(
        "KAFKA_DLQ_TOPIC", "raw-swaps.dlq", _name, "topic for messages that cannot be counted"
    )
    kafka_sources_topic: str = setting(
        "KAFKA_SOURCES_TOPIC",
        "swap-sources",
        _name,
        "topic of what sources remember; a topic of one partition that Kafka compacts",
    )
    kafka_partitions: int = setting(
        "KAFKA_PARTITIONS", "4", _whole(1, 10_000), "partitions, when the program makes the topic"
    )
    kafka_replication: int = setting(
        "KAFKA_REPLICATION", "1", _whole(1, 15), "replicas, when the program makes the topics"
    )
    kafka_retention_ms: int = setting(
        "KAFKA_RETENTION", "7d", _positive_duration, "how long Kafka keeps swaps"
    )
    kafka_dlq_retention_ms: int = setting(
        "KAFKA_DLQ_RETENTION", "14d", _positive_duration, "how long Kafka keeps dead letters"
    )
    kafka_group: str = setting(
        "KAFKA_GROUP", AGGREGATOR_GROUP, _name, "consumer group of the aggregators"
    )
    kafka_group_protocol: str = setting(
        "KAFKA_GROUP_PROTOCOL",
        "classic",
        _choice("classic", "consumer"),
        "classic, or consumer (KIP-848) where the broker has it",
    )
    kafka_instance_id: str = setting(
        "KAFKA_INSTANCE_ID",
        "",
        _optional_name,
        "unique name of this process in the group, kept over restarts (static membership): after a "
        "kill it gets its partitions back immediately; empty: the group waits for its session "
        "timeout",
    )
    kafka_partitioner: str = setting(
        "KAFKA_PARTITIONER",
        "murmur2",
        _choice("murmur2", "crc32", "fnv1a"),
        "how producers choose a partition from the key: murmur2 (Java, Go, Node.js clients), crc32 "
        "(librdkafka's default) or fnv1a; records elsewhere are forwarded, at a cost",
    )
    redis_url: str = setting(
        "REDIS_URL", "redis://127.0.0.1:6379/0", _url("redis", "rediss"), "Redis, AOF on"
    )
    nats_url: str = setting(
        "NATS_URL", "nats://127.0.0.1:4222", _url("nats", "tls"), "NATS, between the processes"
    )
    windows: tuple[tuple[str, int], ...] = setting(
        "WINDOWS", "5m,1h,24h", _windows, "rolling windows, whole minutes up to 7d"
    )
    grace_ms: int = setting(
        "GRACE",
        "",
        _optional_duration,
        "how far an event may be older than the newest Kafka record of its partition and still "
        "count in the windows; empty: the longest of WINDOWS",
    )
    max_future_ms: int = setting(
        "MAX_FUTURE", "5m", _positive_duration, "how far an event may be ahead of its Kafka record"
    )
    clock: str = setting(
        "CLOCK",
        "wall",
        _choice("wall", "event"),
        "the clock at which windows end: wall, or event (the newest event time) to replay old data",
    )
    marker_ttl_ms: int = setting(
        "MARKER_TTL",
        "26h",
        _positive_duration,
        "how long the id of a swap is remembered, by the timestamps of the log",
    )
    drift_ms: int = setting(
        "DRIFT",
        "1h",
        _positive_duration,
        "how much later a repeat of a swap may be stamped than the swap itself",
    )
    batch_size: int = setting("BATCH_SIZE", "2000", _whole(1, 100_000), "most records in one poll")
    coalesce_ms: int = setting(
        "COALESCE",
        "100ms",
        _positive_duration,
        "longest time to gather changes before a patch; shorter while there are few",
    )
    snapshot_interval_ms: int = setting(
        "SNAPSHOT_INTERVAL", "2s", _positive_duration, "how often changes are saved to Redis"
    )
    stale_after_ms: int = setting(
        "STALE_AFTER",
        "3s",
        _positive_duration,
        "a partition silent for longer is stale",
    )
    clickhouse_url: str = setting(
        "CLICKHOUSE_URL",
        "",
        _optional_url("clickhouse"),
        "ClickHouse, clickhouse://user:password@host:9000/database; empty: no archive",
    )
    archiver_group: str = setting(
        "ARCHIVER_GROUP", ARCHIVER_GROUP, _name, "consumer group of the archivers"
    )
    archive_batch_rows: int = setting(
        "ARCHIVE_BATCH", "50000", _whole(1, 100_000), "most rows in one insert into ClickHouse"
    )
    archive_linger_ms: int = setting(
        "ARCHIVE_LINGER", "1s", _positive_duration, "longest wait for a full insert"
    )
    hot_ttl_ms: int = setting(
        "ARCHIVE_HOT", "7d", _positive_duration, "how long the archive stays on local disk"
    )
    keep_ttl_ms: int = setting(
        "ARCHIVE_KEEP", "90d", _positive_duration, "how long the archive keeps swaps and candles"
    )
    daily_ttl_ms: int = setting(
        "ARCHIVE_DAILY_KEEP", "1825d", _positive_duration, "how long the daily totals are kept"
    )
    jwt_public_key_file: Path | None = setting(
        "JWT_PUBLIC_KEY_FILE", "", _optional_path, "PEM file of the RSA key that verifies tokens"
    )
    jwt_jwks_url: str = setting(
        "JWT_JWKS_URL", "", _jwks_url, "JWKS address of the issuer's keys, instead of a PEM file"
    )
    demo_token_file: Path | None = setting(
        "DEMO_TOKEN_FILE",
        "",
        _optional_path,
        "file with a token that the dashboard gives to every visitor: for demos only",
    )
    jwt_issuer: str = setting("JWT_ISSUER", "swaps-demo", _text, "the `iss` a token must carry")
    jwt_audience: str = setting("JWT_AUDIENCE", "swaps", _text, "the `aud` a token must carry")
    jwt_leeway_ms: int = setting(
        "JWT_LEEWAY", "10s", duration_ms, "clock difference allowed at exp, nbf and iat, up to 30s"
    )
    rate_per_s: int = setting(
        "RATE_LIMIT", "100", _whole(1, 1_000_000), "cost that a subject may spend per second"
    )
    rate_burst: int = setting(
        "RATE_BURST", "200", _whole(1, 1_000_000), "cost that a subject may spend in one burst"
    )
    rate_ip_per_s: int = setting(
        "RATE_LIMIT_IP", "500", _whole(1, 1_000_000), "cost that an IP address may spend per second"
    )
    rate_ip_burst: int = setting(
        "RATE_BURST_IP",
        "1000",
        _whole(1, 1_000_000),
        "cost that an IP address may spend in one burst",
    )
    trusted_proxies: tuple[Network, ...] = setting(
        "TRUSTED_PROXIES",
        "",
        _networks,
        "networks of proxies whose X-Forwarded-For is trusted, such as 10.0.0.0/8",
    )
    login_rate: tuple[int, int] = setting(
        "LOGIN_RATE", "10/5m", _attempts, "login attempts in the admin per address"
    )
    body_limit: int = setting(
        "BODY_LIMIT", "2621440", _whole(1_024, 2**30), "bytes of the largest request body"
    )
    ingest: str = setting(
        "INGEST",
        "auto",
        _choice("auto", "on", "off"),
        "whether a web node takes swaps over HTTP: on loads the decoder and connects to Kafka at "
        "the start, auto with the first request, off refuses them",
    )
    ingest_bytes: int = setting(
        "INGEST_BYTES",
        "33554432",
        _whole(1_024, 2**34),
        "bytes of swaps that may wait for Kafka in one web node; more are answered with 503",
    )
    request_within_ms: int = setting(
        "REQUEST_WITHIN",
        "15s",
        _positive_duration,
        "longest time for a request to arrive",
    )
    https_only: bool = setting(
        "HTTPS_ONLY", "0", _flag, "1 if TLS is used: secure cookies, HSTS, redirects from http"
    )
    csrf_trusted_origins: tuple[str, ...] = setting(
        "CSRF_TRUSTED_ORIGINS",
        "",
        _names,
        "origins, with their scheme, of an admin served by a proxy",
    )
    cors_allowed_origins: tuple[str, ...] = setting(
        "CORS_ALLOWED_ORIGINS",
        "",
        _names,
        "origins, with their scheme, whose pages may read the API from a browser; * is any",
    )
    ws_allowed_origins: tuple[str, ...] = setting(
        "WS_ALLOWED_ORIGINS",
        "",
        _names,
        "further origins, with their scheme, whose pages may open a WebSocket; * is any",
    )
    ws_subscriptions: int = setting(
        "WS_SUBSCRIPTIONS", "200", _whole(1, 10_000), "most subscriptions of one WebSocket"
    )
    ws_connections: int = setting(
        "WS_CONNECTIONS", "10000", _whole(1, 1_000_000), "most WebSockets of one process"
    )
    ws_subject_connections: int = setting(
        "WS_SUBJECT_CONNECTIONS",
        "10",
        _whole(1, 1_000_000),
        "most WebSockets of one subject in one process",
    )
    ws_messages_per_s: int = setting(
        "WS_MESSAGES", "20", _whole(1, 10_000), "messages per second that a WebSocket may send"
    )
    ws_message_bytes: int = setting(
        "WS_MESSAGE_BYTES", "65536", _whole(256, 2**20), "bytes of the largest accepted message"
    )
    ws_queue_bytes: int = setting(
        "WS_QUEUE_BYTES",
        "1048576",
        _whole(2**16, 2**30),
        "bytes that may wait for a slow client",
    )
    ws_slow_after_ms: int = setting(
        "WS_SLOW_AFTER",
        "10s",
        _slow_after,
        "a WebSocket that reads nothing for longer is closed; up to 15s",
    )
    django_secret_key: str = setting(
        "DJANGO_SECRET_KEY", "", str, "secret of sessions and CSRF; required when DEBUG is 0"
    )
    django_allowed_hosts: tuple[str, ...] = setting(
        "DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]", _names, "host names that are served"
    )
    database_file: Path | None = setting(
        "DATABASE_FILE", "", _optional_path, "SQLite file of the admin; empty: var/db.sqlite3"
    )
    database_url: str = setting(
        "DATABASE_URL",
        "",
        _database_url,
        "PostgreSQL of the admin, postgresql://user:password@host:5432/name; empty: SQLite",
    )
    debug: bool = setting("DEBUG", "0", _flag, "Django's debug mode; never in production")
    metrics_host: str = setting(
        "METRICS_HOST", "127.0.0.1", _text, "address of the aggregator's metrics"
    )
    metrics_port: int = setting(
        "METRICS_PORT", "0", _whole(0, 65_535), "port of the aggregator's metrics; 0 is off"
    )
    metrics_allow: tuple[Network, ...] = setting(
        "METRICS_ALLOW",
        "127.0.0.0/8,::1/128",
        _networks,
        "networks that may read a web node's /metrics without a token, but not through a proxy",
    )
    profiling: bool = setting(
        "PROFILING", "0", _flag, "1: the processes answer /debug/pprof/profile and /heap"
    )
    otlp_endpoint: str = setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        _optional_url("http", "https"),
        "OpenTelemetry collector for spans (OTLP over HTTP); empty: no tracing",
    )
    trace_share: float = setting(
        "OTEL_TRACES_SAMPLER_ARG",
        "1",
        _share,
        "share of the traces started here that are kept, 0 to 1; a caller's traceparent decides "
        "for its trace",
    )
    log_format: str = setting(
        "LOG_FORMAT", "auto", _choice("auto", "json", "console"), "auto: console on a terminal"
    )
    log_level: str = setting(
        "LOG_LEVEL",
        "info",
        _choice("debug", "info", "warning", "error"),
        "lowest level logged",
    )

    @property
    def longest_window_minutes(self) -> int:
        """Minutes of the longest window: how far back the state must reach."""
        return max(minutes for _, minutes in self.windows)

    @property
    def counting(self) -> dict[str, str]:
        """The settings that must be equal in every process, in the form of heartbeats."""
        return {
            "WINDOWS": ",".join(name for name, _ in self.windows),
            "GRACE": duration_text(self.grace_ms),
            "MAX_FUTURE": duration_text(self.max_future_ms),
            "CLOCK": self.clock,
            "MARKER_TTL": duration_text(self.marker_ttl_ms),
            "KAFKA_PARTITIONER": self.kafka_partitioner,
        }


def _fault(spec: Field[Any], why: str) -> str:
    return f"{spec.metadata['env']}: {why} ({spec.metadata['doc']})"


def load(environ: Mapping[str, str]) -> Config:
    """Read the settings from `environ`, with defaults for absent ones.

    Raises a ConfigError that names every faulty variable, not only the first.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    for spec in fields(Config):
        assert spec.default is MISSING
        try:
            text = _given(environ, spec.metadata["env"], spec.metadata["default"])
        except ValueError as error:
            faults.append(_fault(spec, str(error)))
            continue
        try:
            values[spec.name] = spec.metadata["parse"](text)
        except ValueError as error:
            shown = "the value" if spec.metadata["env"] in SECRETS else repr(text)
            faults.append(_fault(spec, f"{shown} is not usable: {error}"))
    if values.get("grace_ms") == 0 and "windows" in values:
        values["grace_ms"] = max(minutes for _, minutes in values["windows"]) * 60_000
    faults += _contradictions(values)
    if faults:
        raise ConfigError(faults)
    return Config(**values)


def _given(environ: Mapping[str, str], env: str, default: str) -> str:
    """Return the variable's text; a secret may come from the file that `<variable>_FILE` names."""
    named = environ.get(f"{env}_FILE", "") if env in SECRETS else ""
    if not named:
        return environ.get(env, default)
    if environ.get(env):
        raise ValueError(f"give it or {env}_FILE, not both")
    try:
        return Path(named).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{env}_FILE: {named} cannot be read: {error}") from None


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """Find settings that contradict each other; settings that failed to parse are absent."""
    faults = []
    if values.get("jwt_leeway_ms", 0) > 30_000:
        faults.append("JWT_LEEWAY: at most 30s")
    if values.get("jwt_jwks_url") and values.get("jwt_public_key_file"):
        faults.append("JWT_JWKS_URL: give it or JWT_PUBLIC_KEY_FILE, not both")
    if values.get("database_url") and values.get("database_file"):
        faults.append("DATABASE_URL: give it or DATABASE_FILE, not both")
    if values.get("ingest_bytes", 2**34) < values.get("body_limit", 0):
        faults.append("INGEST_BYTES: must be at least BODY_LIMIT")
    for name, other in (
        ("kafka_dlq_topic", "kafka_topic"),
        ("kafka_sources_topic", "kafka_topic"),
        ("kafka_sources_topic", "kafka_dlq_topic"),
    ):
        if values.get(name) is not None and values[name] == values.get(other):
            faults.append(f"{name.upper()}: must differ from {other.upper()}")
    if {"keep_ttl_ms", "hot_ttl_ms"} <= set(values) and values["keep_ttl_ms"] <= values[
        "hot_ttl_ms"
    ]:
        faults.append("ARCHIVE_KEEP: must be longer than ARCHIVE_HOT")
    if {"windows", "grace_ms", "max_future_ms", "marker_ttl_ms", "drift_ms"} | {
        "kafka_retention_ms"
    } <= set(values):
        longest = max(minutes for _, minutes in values["windows"]) * 60_000
        kept = max(longest, values["grace_ms"]) + values["max_future_ms"] + values["drift_ms"]
        if values["marker_ttl_ms"] < kept:
            faults.append(
                "MARKER_TTL: must be at least the longest of WINDOWS (or GRACE) + MAX_FUTURE + "
                "DRIFT, or a repeat would count again"
            )
        if values["kafka_retention_ms"] < 2 * longest + values["max_future_ms"]:
            faults.append(
                "KAFKA_RETENTION: must be at least twice the longest of WINDOWS + MAX_FUTURE, or "
                "the windows could not be rebuilt"
            )
    return faults
