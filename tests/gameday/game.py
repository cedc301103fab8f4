"""One game day: the site, the clients and the traffic, a fault per interval, and the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.gameday.events import token_ids
from tests.gameday.faults import Faults, Strike
from tests.gameday.helper import Helper
from tests.gameday.judge import Outcome, judge
from tests.gameday.keys import Issuer
from tests.gameday.plan import plan
from tests.gameday.site import Site, until
from tests.gameday.watch import Look, Recovery, Watch

# What STALE_AFTER (3 s), a heartbeat a second and a busy machine add up to.
_STALE_WITHIN_S: Final = 6.0
_RECOVERED_WITHIN_S: Final = 180
_WARM_UP_S: Final = 90
# A shorter time would leave hundreds of small parts on S3, which are slow to query.
_LEAST_HOT_S: Final = 90
_SHOWS_STALENESS: Final = {"zombie", "kill_aggregator"}
# Only saves need Redis, so users notice nothing of its absence.
_UNNOTICED: Final = {"kill_redis", "redis_tail", "redis_empty", "redis_away", "full_disk_redis"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Game:
    """The parameters: `minutes` in all, with a fault of `kinds` every `every_s` seconds."""

    seed: int
    minutes: float
    rate: float
    sockets: int
    tokens: int
    every_s: float
    kinds: list[str]
    pace: float
    hot: str

    @staticmethod
    def of(
        seed: int, minutes: float, rate: float, sockets: int, every_s: float, count: int = 0
    ) -> Game:
        """A default game of that size with `count` faults, or as many as there is time for."""
        # One interval without a fault before the first and one after the last, to come to rest.
        count = count or max(1, int(minutes * 60 / every_s) - 2)
        return Game(
            seed=seed,
            minutes=minutes,
            rate=rate,
            sockets=sockets,
            tokens=max(40, min(400, round(rate / 5))),
            every_s=every_s,
            kinds=plan(seed, count),
            pace=min(1.0, every_s / 40),
            hot=f"{max(_LEAST_HOT_S, round(3 * every_s))}s",
        )


@dataclass
class Played:
    """The results. Times are ms since the epoch."""

    game: Game
    begun: int
    ended: int = 0
    recoveries: list[Recovery] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    crowd: list[dict[str, int]] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    records: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def wrong(self) -> list[str]:
        """Everything that was wrong."""
        return self.outcome.wrong


def play(game: Game, directory: Path, say: Say) -> Played:
    """Play the game in `directory`, which keeps the logs."""
    (directory / "log").mkdir(parents=True)
    with Issuer(directory / "issuer") as issuer, Site(directory, issuer, game.hot) as site:
        say("the site is ready")
        key = issuer.directory / f"{issuer.shown[-1]}.pem"
        traffic = Helper(
            directory / "log" / "traffic.log",
            "tests.gameday.traffic",
            *("--bootstrap", site.bootstrap, "--topic", "raw-swaps", "--seed", game.seed),
            *("--rate", game.rate, "--tokens", game.tokens),
        )
        crowd = Helper(
            directory / "log" / "crowd.log",
            "tests.gameday.crowd",
            *("--ports", *site.ports.values(), "--key", key),
            *("--sockets", game.sockets, "--tokens", game.tokens),
        )
        try:
            return _play(game, site, traffic, crowd, say)
        finally:
            traffic.close()
            crowd.close()


def _play(game: Game, site: Site, traffic: Helper, crowd: Helper, say: Say) -> Played:
    played = Played(game, _now_ms())
    faults = Faults(game.seed, site, crowd, traffic, game.rate, game.pace)
    with Watch(site, crowd, game.sockets, token_ids(1)[0]) as watch:
        try:
            if not until(lambda: watch.well(played.begun), _WARM_UP_S):
                played.wrong.append(f"not warm within {_WARM_UP_S} s: {_how(watch)}")
            say("traffic and clients are there")
            _strikes(game, faults, watch, site, played, say)
        finally:
            faults.close()
        traffic.order("stop")
        over = traffic.wait(lambda line: line["over"], 120, "the last of the traffic")
        played.wrong.extend(f"the broker refused a record: {each}" for each in over["refused"])
        played.ended = _now_ms()
        say(f"{over['sent']:,} records sent; coming to rest")
        outcome, tally = judge(site, crowd, say)
        if (own := tally.records - tally.forwards) != over["sent"]:
            outcome.wrong.append(f"{over['sent']} records sent, {own} in the log")
        played.outcome.compared = outcome.compared
        played.wrong.extend([*outcome.wrong, *site.ended, *watch.faults])
        played.records, played.counts = tally.records, tally.counts
        played.looks, played.crowd = watch.looks, watch.crowd()
    return played


def _strikes(
    game: Game, faults: Faults, watch: Watch, site: Site, played: Played, say: Say
) -> None:
    """Inject each fault on schedule, or later if the previous one is not over; skip none."""
    begun = time.monotonic()
    for number, kind in enumerate(game.kinds, 1):
        until(lambda n=number: time.monotonic() >= begun + n * game.every_s, 10**6)  # type: ignore[misc]
        strike = faults.play(number, kind)
        recovered = until(lambda s=strike: _well(watch, site, s), _RECOVERED_WITHIN_S)  # type: ignore[misc]
        recovery = watch.recovery(strike, _now_ms(), recovered)
        played.recoveries.append(recovery)
        played.wrong.extend(_faults_of(recovery, game, watch))
        say(_line(recovery, len(game.kinds)))
    # The report needs a last interval without a fault.
    until(lambda: time.monotonic() >= begun + game.minutes * 60 - game.every_s, 10**6)


def _well(watch: Watch, site: Site, strike: Strike) -> bool:
    site.revive()
    return watch.well(strike.repaired_at)


def _faults_of(recovery: Recovery, game: Game, watch: Watch) -> list[str]:
    strike, wrong = recovery.strike, []
    name = f"fault {strike.number} ({strike.kind})"
    if not recovery.recovered:
        wrong.append(f"{name}: not well within {_RECOVERED_WITHIN_S} s: {_how(watch)}")
    silent_s = (strike.repaired_at - strike.at) / 1000
    if strike.kind in _SHOWS_STALENESS and silent_s > _STALE_WITHIN_S:
        shown = recovery.stale_s
        if shown is None or shown > _STALE_WITHIN_S:
            wrong.append(f"{name}: clients were shown stale numbers after {shown} s")
    if strike.kind in _UNNOTICED and recovery.total_s:
        wrong.append(f"{name}: windows stalled: users noticed it for {recovery.total_s} s")
    if strike.kind == "jwks_rotation":
        renewed = recovery.seen["renewed"]
        closed = sum(n for what, n in recovery.seen.items() if what.startswith("closed"))
        if renewed < game.sockets or closed:
            wrong.append(f"{name}: {renewed} of {game.sockets} renewed in place, {closed} closed")
    return wrong


def _how(watch: Watch) -> str:
    look, lines = watch.looks[-1:], watch.crowd()[-1:]
    said = [f"{k.ready} {k.reasons} {k.degraded} archived {k.archived}" for k in look]
    return "; ".join([*said, *(f"{n['connected']} connected, {n['fresh']} fresh" for n in lines)])


def _line(recovery: Recovery, of: int) -> str:
    strike = recovery.strike
    return (
        f"{strike.number:>2}/{of} {strike.kind:<22} ready {seconds(recovery.ready_s):>7}"
        f"  clients {seconds(recovery.fresh_s):>7}  archive {seconds(recovery.archive_s):>7}"
        f"  patch p99 {milliseconds(recovery.patch_ms)} ({milliseconds(recovery.patch_before_ms)})"
        f"  {strike.detail} {'; '.join(recovery.notes)}"
        + ("" if recovery.recovered else "  NOT RECOVERED")
    )


def seconds(value: float | None) -> str:
    """The text for tables; a dash for a fault without an effect."""
    return "-" if value is None else f"{value:.1f} s"


def milliseconds(value: int | None) -> str:
    """The text for tables; a dash where there is no value."""
    return "-" if value is None else f"{value} ms"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
