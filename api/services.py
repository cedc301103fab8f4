"""Assembles the parts of a web node from the settings, in one place.

Assembling reads the public key's file and opens nothing else. Connections are opened by `start`,
which must be called inside the server's event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

from asgiref.sync import sync_to_async
from channels.layers import BaseChannelLayer, get_channel_layer
from django.conf import settings

from aggregator.clickhouse.reader import HistoryReader
from aggregator.runtime import tracing
from aggregator.runtime.clock import TrustedClock, monotonic_ms
from aggregator.runtime.config import Config
from api.archive.questions import History
from api.auth.access import Access, AccessState, default_limits
from api.auth.control import Control
from api.auth.jwks import KeySet
from api.auth.jwt import Verifier
from api.auth.key_keeper import KeyKeeper
from api.auth.keys import KeyFile, KeySource
from api.auth.origins import Origins
from api.auth.ratelimit import BucketRate, RateLimiter
from api.auth.redis_link import RedisLink
from api.board.board import Board
from api.board.feed import Feed
from api.board.listing import RegistryState
from api.board.overview import OverviewReader
from api.board.overview_answers import OverviewAnswers
from api.board.saved import SavedRowsReader
from api.ingest.service import Ingest
from api.registry.follow import RegistryFollower
from api.sockets.build import build_hub
from api.sockets.hub import Hub
from api.sockets.limits import SocketLimits
from api.trades.streams import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of a web node.

    `now_ms` is a monotonic clock for ages, `now_s` the wall clock for tokens.
    """

    config: Config
    board: Board
    feed: Feed
    overview: OverviewReader
    overviews: OverviewAnswers
    history: History
    keys: KeySource
    tokens: Verifier
    access: Access
    limiter: RateLimiter
    redis: RedisLink
    control: Control
    key_keeper: KeyKeeper
    registry: RegistryFollower
    streams: Streams
    hub: Hub
    ingest: Ingest
    origins: Origins
    cors_origins: Origins
    now_ms: Callable[[], int]
    now_s: Callable[[], float]

    @property
    def verifier(self) -> Verifier | None:
        """The token verifier; None while no caller can be let in (`auth_fault`)."""
        return None if self.auth_fault is not None else self.tokens

    @property
    def auth_fault(self) -> str | None:
        """Why no caller is let in: no key, or the operators' decisions are unknown here."""
        if self.keys.empty:
            return self.keys.fault or "there is no key to verify tokens with"
        return self.control.unknown or self.registry.unknown

    async def settled(self) -> None:
        """Wait, for a bounded time after the start, until `auth_fault` is final."""
        await self.control.settled()
        await self.registry.settled()

    @property
    def access_faults(self) -> list[str]:
        """What is wrong with keys, limits and revocations without refusing callers."""
        keys = None if self.keys.empty else self.keys.fault
        found = [each for each in (keys, self.limiter.fault, self.registry.fault) if each]
        return found + self.control.faults

    def start(self) -> None:
        """Start the background tasks in the running event loop; a second call does nothing."""
        tracing.start(self.config, "swaps-web")
        self.feed.start()
        self.redis.start()
        self.control.start()
        self.key_keeper.start()
        self.registry.start()
        self.ingest.start()

    async def stop(self) -> None:
        """Stop what `start` started."""
        self.history.close()
        await self.ingest.stop()
        await self.hub.stop()
        await self.registry.stop()
        await self.key_keeper.stop()
        await self.control.stop()
        await self.redis.stop()
        await self.feed.stop()


def build(
    config: Config,
    now_ms: Callable[[], int] = monotonic_ms,
    now_s: Callable[[], float] = time.time,
) -> Services:
    """Assemble a web node without starting it."""
    board = Board(config.stale_after_ms)
    access = Access(default_limits(config))
    redis = RedisLink(config.redis_url)
    keys = _keys(config, lambda: now_ms() / 1000)
    feed = Feed(
        board,
        config.nats_url,
        now_ms,
        SavedRowsReader(board, config.redis_url, config.kafka_topic, config.kafka_partitions),
        TrustedClock(lambda: round(now_s() * 1000), now_ms),
    )
    overview = OverviewReader(board)
    streams = Streams(board, feed.wire, now_ms)
    hub = build_hub(board, feed, overview, streams, limits=SocketLimits.of(config), now_ms=now_ms)
    control = Control(access, redis, _channel_layer, _reconcile, _recall_access)
    control.serve(hub)
    return Services(
        config=config,
        board=board,
        feed=feed,
        overview=overview,
        overviews=OverviewAnswers(overview),
        history=History(HistoryReader(config.clickhouse_url) if config.clickhouse_url else None),
        keys=keys,
        tokens=Verifier(keys, config.jwt_issuer, config.jwt_audience, config.jwt_leeway_ms, access),
        access=access,
        limiter=RateLimiter(
            redis,
            access,
            BucketRate(config.rate_ip_per_s, config.rate_ip_burst),
            lambda: now_ms() / 1000,
        ),
        redis=redis,
        control=control,
        key_keeper=KeyKeeper(keys),
        registry=RegistryFollower(
            redis, lambda state: _take_registry(board, hub, state), _recall_registry
        ),
        streams=streams,
        hub=hub,
        ingest=Ingest(config),
        origins=Origins(config.ws_allowed_origins),
        cors_origins=Origins(config.cors_allowed_origins),
        now_ms=now_ms,
        now_s=now_s,
    )


@cache
def services() -> Services:
    """Return the parts of this process, which the first call assembles."""
    return build(settings.SWAPS)


def _take_registry(board: Board, hub: Hub, state: RegistryState) -> None:
    changed = board.take_listings(state.listings)
    hub.end_streams([token_id for token_id in changed if board.hides(token_id)])


def _keys(config: Config, now_s: Callable[[], float]) -> KeySource:
    if config.jwt_jwks_url:
        return KeySet(config.jwt_jwks_url, now_s)
    return KeyFile(config.jwt_public_key_file)


def _channel_layer() -> BaseChannelLayer:
    layer: BaseChannelLayer = get_channel_layer()  # type: ignore[no-untyped-call]
    return layer


async def _reconcile() -> None:
    await sync_to_async(_decisions().publish)()


async def _recall_access() -> AccessState:
    state: AccessState = await sync_to_async(_decisions().access_state)()
    return state


async def _recall_registry() -> RegistryState:
    state: RegistryState = await sync_to_async(_decisions().registry_state)()
    return state


def _decisions() -> ModuleType:
    return import_module(settings.DECISIONS)
