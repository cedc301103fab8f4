"""A storm: swaps, reorganisations and kill -9, and then the service must hold the final chain.

The source, the aggregator and the archiver are killed at the points that `runtime.faults` names,
and from outside at random moments. Nobody helps: a process that ended is only started again.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

from aggregator.member.topics import ensure_sources_topic, ensure_topics
from aggregator.runtime.config import load
from infra.chain.contracts import Transaction
from infra.chain.reorganisation import reorganise
from infra.chain.source_toml import CHAIN, source_toml
from infra.chain.swaps import KINDS, Trading
from infra.embedded.engine import Process
from infra.embedded.stack import Stack
from tests.storm.final_chain import Leg, legs_on, swap_logs
from tests.storm.views import Listener, archived, by_rest
from tests.support.anvil import RunningChain, running_chain
from tests.support.archived import Archive, archive
from tests.support.processes import wait_until
from tests.support.service import Service

SETTLED_S: Final = 180
_POLL_S: Final = 0.25
_MOST_PAUSE_S: Final = 0.15
_ARMED_PAUSE_S: Final = 0.3
# A busy machine takes long to start a process.
_ARMED_S: Final = 180
_BEGUN_S: Final = 180
_DEEPEST: Final = 5
# Where a process is killed; "" is from outside, at a random moment.
FAULTS: Final = {
    "source": (
        "source_has_block",
        "source_wrote_intent",
        "source_sent_events",
        "source_wrote_retraction",
        "source_sent_retractions",
        "",
    ),
    "aggregator": ("after_judge", "after_apply", "mid_snapshot", "after_snapshot", ""),
    "archiver": ("after_intent", "after_insert", ""),
}


@dataclass(frozen=True)
class Plan:
    """How much happens."""

    swaps: int = 1_000
    reorganisations: int = 50
    kills: int = 30
    seed: int = 1


class Kill(NamedTuple):
    """One kill -9 of a process at a named point, or from outside at a random moment."""

    name: str
    fault: str


@dataclass
class Outcome:
    """What happened, and what was found in the end."""

    plan: Plan
    seconds: float = 0.0
    settled_s: float = 0.0
    blocks: int = 0
    deepest: int = 0
    reverts: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    moved: int = 0
    dropped: int = 0
    logs: int = 0
    legs: int = 0
    lost_on_socket: int = 0
    faults: list[str] = field(default_factory=list)


def kills_of(plan: Plan) -> list[Kill]:
    """Return the kills in random order; two thirds are of the source, each point at least once."""
    rng = random.Random(f"kills:{plan.seed}")
    weights = {"source": 4, "aggregator": 1, "archiver": 1}
    names = [name for name, weight in weights.items() for _ in range(weight)]
    order = dict.fromkeys(FAULTS, 0)
    found = []
    for at in range(plan.kills):
        name = names[at % len(names)]
        points = FAULTS[name]
        found.append(Kill(name, points[order[name] % len(points)]))
        order[name] += 1
    rng.shuffle(found)
    return found


def play(plan: Plan, directory: Path, kafka: Stack, say: Callable[[str], None]) -> Outcome:
    """Play a storm and compare; `kafka` has Kafka and ClickHouse. Faults are in the outcome."""
    begun = time.monotonic()
    own = {"KAFKA_SOURCES_TOPIC": f"sources-{uuid4().hex[:8]}"}
    with (
        archive(kafka.clickhouse.url) as kept,
        Service(directory, kafka, CLICKHOUSE_URL=kept.url, **own, **_SETTINGS) as service,
        running_chain(directory / "chain") as chain,
    ):
        ensure_topics(load(service.env))
        ensure_sources_topic(load(service.env))
        config = source_toml(chain.world, [chain.node.ws_url])
        (directory / "sources.toml").write_text(config)
        storm = _Storm(plan, service, kept, chain, say)
        with storm.processes():
            storm.rage()
            storm.compare()
    storm.outcome.seconds = time.monotonic() - begun
    return storm.outcome


_SETTINGS: Final = {
    "ARCHIVE_BATCH": "200",
    "ARCHIVE_LINGER": "100ms",
    "BATCH_SIZE": "50",
    "SNAPSHOT_INTERVAL": "250ms",
    "RATE_LIMIT": "100000",
}


class _Storm:
    def __init__(
        self,
        plan: Plan,
        service: Service,
        kept: Archive,
        chain: RunningChain,
        say: Callable[[str], None],
    ) -> None:
        self.outcome = Outcome(plan)
        self._plan = plan
        self._service = service
        self._archive = kept
        self._rpc = chain.rpc
        self._deployed = chain.deployed
        self._say = say
        self._rng = random.Random(plan.seed)
        self._trading = Trading(chain.deployed)
        self._kinds = list(KINDS)
        self._running: dict[str, Process] = {}
        self._started: Counter[str] = Counter()
        self._closing = ExitStack()
        self._listener: Listener

    @contextmanager
    def processes(self) -> Iterator[None]:
        """Run the service, the source and a listener on the sockets."""
        with self._closing:
            for name in ("aggregator", "archiver"):
                self._start(name)
            self._service.web()
            self._service.wait_ready(60)
            url = f"http://127.0.0.1:{self._service.web_port}"
            token = self._service.issue("storm", "stats:read history:read ws:connect ops:read")
            self._service.token = token
            world = self._deployed.world
            self._listener = self._closing.enter_context(
                Listener(url, token, world.tokens.values())
            )
            self._start("source")
            wait_until(self._follows, _BEGUN_S, "a source that follows the chain")
            yield

    def _follows(self) -> bool:
        source = self._running["source"]
        source.check()
        return any('"live"' in line for line in source.written().splitlines())

    def _start(self, name: str, fault: str = "") -> None:
        self._started[name] += 1
        log = f"{name}-{self._started[name]}"
        env = {"SWAPS_FAULT": fault, "KAFKA_INSTANCE_ID": f"storm-{name}"}
        if name == "aggregator":
            process = self._service.aggregator(log, "--no-archiver", **env)
        elif name == "archiver":
            process = self._service.archiver(log, **env)
        else:
            config = str(self._service.directory / "sources.toml")
            command = [sys.executable, "manage.py", "run_source", "--config", config]
            process = self._service.launch(log, [*command, "--name", CHAIN], env)
        self._running[name] = process

    def rage(self) -> None:
        """Mine all swaps, with the reorganisations and kills spread over them."""
        plan, outcome = self._plan, self.outcome
        kills = kills_of(plan)
        while sum(outcome.kinds.values()) < plan.swaps or kills:
            self._mine()
            done = sum(outcome.kinds.values()) / plan.swaps
            if self._reorganised < min(1, done) * plan.reorganisations:
                self._reorganise()
            if kills and (plan.kills - len(kills)) <= done * plan.kills:
                self._kill(kills.pop())
            time.sleep(self._rng.random() * _MOST_PAUSE_S)
        while self._reorganised < plan.reorganisations:
            self._mine()
            self._reorganise()
        self._mine()
        self._say(
            f"{sum(outcome.kinds.values())} swaps of {len(outcome.kinds)} kinds, "
            f"{self._reorganised} reorganisations, {sum(outcome.killed.values())} kills"
        )

    @property
    def _reorganised(self) -> int:
        return self._reorganisations

    _reorganisations = 0

    def _mine(self) -> None:
        """Mine a block of up to six swaps of the next kinds."""
        for _ in range(self._rng.randint(0, 6)):
            kind = self._kinds[sum(self.outcome.kinds.values()) % len(self._kinds)]
            self._rpc(*self._swap(kind).call())
            self.outcome.kinds[kind] += 1
        self._rpc("evm_mine")
        self.outcome.blocks += 1

    def _swap(self, kind: str) -> Transaction:
        trader = self._rng.choice(self._deployed.world.traders)
        return KINDS[kind](self._trading, trader, 0.01 + 2 * self._rng.random() ** 3)

    def _reorganise(self) -> None:
        """Replace the newest blocks, or forget one without a word, as a cut node does."""
        self._reorganisations += 1
        if self._rng.random() < 0.2:
            before = self._rpc("evm_snapshot")
            self._rpc(*self._swap("v2 sell").call())
            self._rpc("evm_mine")
            time.sleep(self._rng.random() * _MOST_PAUSE_S)
            self._rpc("evm_revert", before)
            self.outcome.reverts += 1
            return
        done = reorganise(self._rpc, self._rng.randint(1, _DEEPEST), self._rng)
        self.outcome.deepest = max(self.outcome.deepest, done.depth)
        self.outcome.moved += len(done.moved)
        self.outcome.dropped += len(done.dropped)

    def _kill(self, kill: Kill) -> None:
        """Kill a process, or wait while blocks go on until it meets its point; start it again."""
        if kill.fault:
            self._running[kill.name].kill()
            self._start(kill.name, f"{kill.fault}:{self._rng.randint(1, 3)}")
            armed, deadline = self._running[kill.name], time.monotonic() + _ARMED_S
            # Many blocks meanwhile would only make the storm longer.
            wait_until(lambda: bool(armed.written()) or not armed.running, _BEGUN_S, "a start")
            while armed.running and time.monotonic() < deadline:
                self._mine()
                if self._rng.random() < 0.3:
                    self._reorganise()
                time.sleep(_ARMED_PAUSE_S)
            if self._running[kill.name].running:
                self.outcome.faults.append(f"{kill.name} did not meet {kill.fault}")
        else:
            time.sleep(self._rng.random() * _MOST_PAUSE_S)
        status = self._running[kill.name].status
        if status not in {None, -9}:
            tail = self._running[kill.name].tail(5)
            self.outcome.faults.append(f"{kill.name} ended with {status}: {tail}")
        self._running[kill.name].kill()
        self.outcome.killed[f"{kill.name} {kill.fault or 'from outside'}"] += 1
        self._start(kill.name)

    def compare(self) -> None:
        """Wait until archive, REST and sockets hold exactly the legs of the final chain."""
        begun = time.monotonic()
        world, outcome = self._deployed.world, self.outcome
        wanted = legs_on(self._rpc, world)
        outcome.logs, outcome.legs = len(swap_logs(self._rpc, world)), len(wanted)
        tokens = list(world.tokens.values())
        views: dict[str, Callable[[], Counter[Leg]]] = {
            "archive": lambda: archived(self._archive),
            "REST": lambda: by_rest(self._service, tokens),
            "sockets": self._listener.trades,
        }
        for name, view in views.items():
            found = self._settled(view, wanted, begun + SETTLED_S)
            self._judge(name, found, wanted)
        self._judge_stats(wanted, begun + SETTLED_S)
        outcome.settled_s = time.monotonic() - begun
        outcome.lost_on_socket = self._listener.lost
        self._say(
            f"sockets: the service announced {self._listener.lost} trades as lost, and "
            f"{self._listener.restarts} new counts"
        )
        for name, process in self._running.items():
            if not process.running:
                outcome.faults.append(f"{name} ended: {process.tail(5)}")

    def _settled(
        self, view: Callable[[], Counter[Leg]], wanted: set[Leg], deadline: float
    ) -> Counter[Leg]:
        while True:
            found = view()
            if found == Counter(wanted) or time.monotonic() > deadline:
                return found
            time.sleep(_POLL_S)

    def _judge(self, name: str, found: Counter[Leg], wanted: set[Leg]) -> None:
        missing, extra = Counter(wanted) - found, found - Counter(wanted)
        self._say(f"{name}: {len(found)} legs, {len(missing)} missing, {len(extra)} extra")
        for what, legs in (("misses", missing), ("has too many of", extra)):
            self.outcome.faults += [f"{name} {what} {leg}" for leg in list(legs)[:3]]

    def _judge_stats(self, wanted: set[Leg], deadline: float) -> None:
        """Compare the trades, buys and sells of the longest window on the sockets."""
        truth = {
            token: Counter(leg.side for leg in wanted if leg.token == token)
            for token in {leg.token for leg in wanted}
        }
        while True:
            rows = {
                token: Counter({"buy": day.buys, "sell": day.sells})
                for token, row in self._listener.stats().items()
                if (day := row.windows["24h"]).trades
            }
            if rows == truth or time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        self._say(f"windows: {len(rows)} tokens, {'equal' if rows == truth else 'not equal'}")
        for token in truth.keys() | rows.keys():
            if truth.get(token) != rows.get(token):
                self.outcome.faults.append(
                    f"24h of {token}: {rows.get(token)} in place of {truth.get(token)}"
                )
