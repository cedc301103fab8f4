"""What the views use, assembled in one place from the settings.

Assembling opens nothing but the public key's file; the feed connects when `start` is called inside
the server's event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import structlog
from django.conf import settings

from aggregator.config import Config
from aggregator.errors import ConfigError
from api.board.board import Board
from api.board.feed import Feed
from api.board.overview import OverviewReader
from api.security.jwt import Verifier, load_public_key

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of a web node.

    `now_ms` is a monotonic clock for ages, `now_s` the wall clock for tokens. `verifier` is None
    where there is no usable key; `auth_fault` then says why, and nobody is let in.
    """

    config: Config
    board: Board
    feed: Feed
    overview: OverviewReader
    verifier: Verifier | None
    auth_fault: str | None
    now_ms: Callable[[], int]
    now_s: Callable[[], float]


def monotonic_ms() -> int:
    """Milliseconds of a clock that never jumps."""
    return time.monotonic_ns() // 1_000_000


def build(
    config: Config,
    now_ms: Callable[[], int] = monotonic_ms,
    now_s: Callable[[], float] = time.time,
) -> Services:
    """Assemble a web node."""
    board = Board(config.stale_after_ms)
    verifier, auth_fault = _verifier(config)
    return Services(
        config=config,
        board=board,
        feed=Feed(board, config.nats_url, now_ms),
        overview=OverviewReader(board),
        verifier=verifier,
        auth_fault=auth_fault,
        now_ms=now_ms,
        now_s=now_s,
    )


@cache
def services() -> Services:
    """The parts of this process."""
    return build(settings.SWAPS)


def _verifier(config: Config) -> tuple[Verifier | None, str | None]:
    try:
        key = load_public_key(config.jwt_public_key_file)
    except ConfigError as error:
        fault = "; ".join(error.faults)
        log.error("auth_unavailable", fault=fault)
        return None, fault
    verifier = Verifier(key, config.jwt_issuer, config.jwt_audience, config.jwt_leeway_ms)
    return verifier, None
