"""The settings: read from the environment once, into one frozen object, all faults at once.

Nothing else reads the environment. Reading a setting opens nothing; a file named by a setting is
opened by the part that uses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aggregator.contracts.names import AGGREGATOR_GROUP
from aggregator.errors import ConfigError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)\Z")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST_WINDOW_MINUTES = 7 * 24 * 60


def duration_ms(text: str) -> int:
    """`"250ms"`, `"2s"`, `"5m"`, `"24h"`, `"7d"` as milliseconds; ValueError otherwise."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError("give a duration such as 250ms, 2s, 5m, 24h or 7d")
    return round(float(match[1]) * _UNIT_MS[match[2]])


def _positive_duration(text: str) -> int:
    value = duration_ms(text)
    if value <= 0:
        raise ValueError("give a duration above 0")
    return value


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


def _optional_path(text: str) -> Path | None:
    return Path(text) if text else None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


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
    """A field of `Config`: its variable, its default as a person would write it, its meaning."""
    metadata = {"env": env, "default": default, "parse": parse, "doc": doc}
    return field(metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting of every process. Durations are held in ms."""

    kafka_bootstrap: str = setting(
        "KAFKA_BOOTSTRAP", "127.0.0.1:9092", _bootstrap, "Kafka brokers, host:port with commas"
    )
    kafka_topic: str = setting("KAFKA_TOPIC", "raw-swaps", _name, "topic that the swaps arrive in")
    kafka_dlq_topic: str = setting(
        "KAFKA_DLQ_TOPIC", "raw-swaps.dlq", _name, "topic for messages that cannot be counted"
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
        "GRACE", "2m", _positive_duration, "how far behind the watermark a bucket stays open"
    )
    max_future_ms: int = setting(
        "MAX_FUTURE", "5m", _positive_duration, "how far an event may lie ahead of its Kafka record"
    )
    clock: str = setting(
        "CLOCK",
        "wall",
        _choice("wall", "event"),
        "what windows end at: wall, or event (the watermark) for a replay of old data",
    )
    marker_ttl_ms: int = setting(
        "MARKER_TTL", "26h", _positive_duration, "how long a swap's marker is kept in Redis"
    )
    batch_size: int = setting(
        "BATCH_SIZE", "2000", _whole(1, 2_000), "most events in one claim (one call to Redis)"
    )
    coalesce_ms: int = setting(
        "COALESCE", "100ms", _positive_duration, "how long changes are gathered before a patch"
    )
    snapshot_interval_ms: int = setting(
        "SNAPSHOT_INTERVAL", "2s", _positive_duration, "how often what changed is saved to Redis"
    )
    stale_after_ms: int = setting(
        "STALE_AFTER", "3s", _positive_duration, "a partition silent for longer is stale"
    )
    jwt_public_key_file: Path | None = setting(
        "JWT_PUBLIC_KEY_FILE", "", _optional_path, "PEM file of the RSA key that verifies tokens"
    )
    jwt_issuer: str = setting("JWT_ISSUER", "swaps-demo", _text, "the `iss` a token must carry")
    jwt_audience: str = setting("JWT_AUDIENCE", "swaps", _text, "the `aud` a token must carry")
    jwt_leeway_ms: int = setting(
        "JWT_LEEWAY", "10s", duration_ms, "clock difference allowed at exp, nbf and iat, up to 30s"
    )
    django_secret_key: str = setting(
        "DJANGO_SECRET_KEY", "", str, "secret of sessions and CSRF; required when DEBUG is 0"
    )
    django_allowed_hosts: tuple[str, ...] = setting(
        "DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]", _names, "host names that are served"
    )
    debug: bool = setting("DEBUG", "0", _flag, "Django's debug mode; never in production")
    metrics_host: str = setting(
        "METRICS_HOST", "127.0.0.1", _text, "address that the aggregator's metrics listen on"
    )
    metrics_port: int = setting(
        "METRICS_PORT", "0", _whole(0, 65_535), "port of the aggregator's metrics; 0 is off"
    )
    log_format: str = setting(
        "LOG_FORMAT", "auto", _choice("auto", "json", "console"), "auto: console on a terminal"
    )
    log_level: str = setting(
        "LOG_LEVEL", "info", _choice("debug", "info", "warning", "error"), "least level logged"
    )

    @property
    def longest_window_minutes(self) -> int:
        """Minutes of the longest window: what the state must reach back to."""
        return max(minutes for _, minutes in self.windows)


def _fault(spec: Field[Any], why: str) -> str:
    return f"{spec.metadata['env']}: {why} ({spec.metadata['doc']})"


def load(environ: Mapping[str, str]) -> Config:
    """The settings of `environ`, defaults for what is absent.

    Raises ConfigError that names every variable at fault, not only the first.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    for spec in fields(Config):
        text = environ.get(spec.metadata["env"], spec.metadata["default"])
        assert spec.default is MISSING
        try:
            values[spec.name] = spec.metadata["parse"](text)
        except ValueError as error:
            faults.append(_fault(spec, f"{text!r} is not usable: {error}"))
    faults += _contradictions(values)
    if faults:
        raise ConfigError(faults)
    return Config(**values)


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """Faults that lie between settings, each good alone; those that failed to parse are absent."""
    faults = []
    if values.get("jwt_leeway_ms", 0) > 30_000:
        faults.append("JWT_LEEWAY: at most 30s")
    if values.get("kafka_topic") is not None and values["kafka_topic"] == values.get(
        "kafka_dlq_topic"
    ):
        faults.append("KAFKA_DLQ_TOPIC: must differ from KAFKA_TOPIC")
    if {"windows", "grace_ms", "max_future_ms", "marker_ttl_ms", "kafka_retention_ms"} <= set(
        values
    ):
        longest = max(minutes for _, minutes in values["windows"]) * 60_000
        reach = longest + values["grace_ms"] + values["max_future_ms"]
        if values["marker_ttl_ms"] < reach:
            faults.append(
                "MARKER_TTL: must be at least the longest of WINDOWS + GRACE + MAX_FUTURE, "
                "or a repeat inside a window would count twice"
            )
        if values["kafka_retention_ms"] < reach + longest:
            faults.append(
                "KAFKA_RETENTION: must be at least twice the longest of WINDOWS + GRACE + "
                "MAX_FUTURE, or the windows could not be rebuilt"
            )
    return faults
