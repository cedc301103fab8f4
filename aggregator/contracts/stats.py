"""The numbers of a token: the same JSON on NATS, REST and WebSocket (DESIGN 7).

USD and prices are decimal strings, counts are integers, percentages are JSON numbers, times are
ms since the epoch, unknown is null and never 0.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import msgspec

from aggregator.contracts.event import ATTOS_PER_TOKEN, MICROS_PER_USD

PCT_DIGITS: Final = 4


class PreviousWindow(msgspec.Struct, frozen=True, gc=False):
    """The window of the same length that ends where a `WindowStats` begins.

    `price_change_pct` is the change from its first to its last price.
    """

    volume_usd: str
    trades: int
    price_change_pct: float | None


class WindowStats(msgspec.Struct, frozen=True, gc=False):
    """One rolling window of one token: the minute buckets of [open_time, close_time).

    `complete` is false until the counted history reaches back to `open_time`. `traders`, `buyers`
    and `sellers` count the distinct traders of its trades, buys and sells, exactly at any size;
    trades without a trader are not included. Prices (`*_usd` of open, high, low, close, vwap) are
    null where the window has no priced trade. `volume_usd`, `buy_volume_usd`, `sell_volume_usd` and
    `net_volume_usd` (buys minus sells) sum priced trades exactly; `volume_token` sums the token
    amounts of priced trades; vwap_usd = volume_usd / volume_token; price_change_pct =
    (close - open) / open * 100; `largest_trade_usd` is the largest priced trade. `previous` is null
    until the counted history covers all of the previous window.

    `approximate` is true where a swap of one of the window's minutes was retracted. Sums stay
    exact, but open, high, low, close, the largest trade and the distinct counts of that minute may
    still include the retracted swap while the minute has other trades.
    """

    open_time: int
    close_time: int
    complete: bool
    trades: int
    buys: int
    sells: int
    traders: int
    buyers: int
    sellers: int
    volume_usd: str
    buy_volume_usd: str
    sell_volume_usd: str
    net_volume_usd: str
    volume_token: str
    open_usd: str | None
    high_usd: str | None
    low_usd: str | None
    close_usd: str | None
    vwap_usd: str | None
    price_change_pct: float | None
    largest_trade_usd: str | None
    previous: PreviousWindow | None
    approximate: bool


class Quality(msgspec.Struct, frozen=True, gc=False):
    """Counters of a token's events, other than trades, since the state began."""

    unpriced: int = 0
    duplicates: int = 0
    late: int = 0
    retracted: int = 0


class TokenStats(msgspec.Struct, frozen=True, gc=False):
    """The board row of one token. On NATS this is one patch.

    (epoch, seq) orders the states of a partition: a higher epoch is a newer owner, and seq numbers
    that owner's patches without a gap. The numbers count the offsets below `next_offset`. `as_of`
    is the instant at which the windows end, `watermark` the log clock of the partition: the newest
    timestamp of its Kafka records. A row without `windows` is a tombstone: the owner has released
    the token. The web node sets `stale` when the partition's owner is silent.
    """

    token_id: str
    chain: str
    token: str
    symbol: str | None
    partition: int
    epoch: int
    seq: int
    next_offset: int
    as_of: int
    watermark: int | None
    stale: bool
    last_price_usd: str | None
    last_trade_at: int | None
    quality: Quality
    windows: dict[str, WindowStats]


class Tallies(msgspec.Struct, frozen=True, gc=False):
    """Counters of an owner's records since it took the partition, replays included.

    `misplaced` are the records away from their token's home, which the home counts.
    """

    records: int = 0
    duplicates: int = 0
    late: int = 0
    dead_letters: int = 0
    misplaced: int = 0


class Heartbeat(msgspec.Struct, frozen=True, gc=False):
    """A partition owner's message on `swaps.heartbeat.<partition>`, published every second.

    `partitions` is the number of partitions of the topic, so that a web node knows how many owners
    to expect. `state` is "rebuilding" until the replay reaches the end offset as of the assignment
    (`target_offset`; until then nothing is published and `seq` stays 0), then "live"; "stalled"
    while nothing can be counted. Numbers of a partition that is not live are stale; while Redis is
    away they are fresh, and `degraded` says that nothing is saved. `watermark` is the log clock:
    the newest record timestamp, by event time with CLOCK=event. `lag` is the end offset minus
    `next_offset`, null while the broker does not answer. `degraded` lists what is wrong with the
    owner and is empty where nothing is. `owner` is the process (host and pid) and `version` its
    release, for operators. `snapshot_age_ms` is the time since the last saved snapshot, null before
    the first. `settings` holds the settings that must be equal in every process
    (`Config.counting`), for the doctor.
    """

    partition: int
    partitions: int
    epoch: int
    seq: int
    next_offset: int
    target_offset: int
    state: str
    as_of: int
    watermark: int | None
    lag: int | None
    degraded: list[str]
    owner: str = ""
    version: str = ""
    snapshot_age_ms: int | None = None
    tallies: Tallies = Tallies()
    settings: dict[str, str] = {}


class ArchiveStatus(msgspec.Struct, frozen=True, gc=False):
    """A partition archiver's message on `swaps.archive.<partition>`, published every second.

    `state` is "settling" while the insert that a previous owner began is completed, "filling" while
    the archive is asked for the swaps of the last MARKER_TTL, or a backfill adds rows to it, then
    "archiving"; "stalled" while an engine is unreachable, which `fault` names. Every offset below
    `next_offset` is archived. `lag` is the end offset minus `next_offset`. `age_ms` is how long the
    oldest unarchived record has been in the log, null where it has not been read yet. `gaps` holds
    the newest ranges [first offset, end offset] that Kafka deleted before they were archived.
    """

    partition: int
    state: str
    next_offset: int
    lag: int
    age_ms: int | None
    gaps: list[list[int]]
    fault: str | None


class ResyncRequest(msgspec.Struct, frozen=True, gc=False):
    """A web node's request on `swaps.resync.<partition>`.

    `since` is the last seq of `epoch` that the node has. 0, or an epoch that is not the owner's,
    requests the full state.
    """

    epoch: int
    since: int


class ResyncChunk(msgspec.Struct, frozen=True, gc=False):
    """One message of the owner's answer, sent to the request's reply subject.

    An answer is `chunks` messages with `chunk` = 0 … chunks-1 and the same (epoch, seq). Together
    they hold every token whose newest patch has a seq above the request's `since`. `full` is true
    where they hold the full state of the partition. The state "rebuilding" means that the owner
    cannot answer yet: there are no tokens, and the node must ask again later.
    """

    partition: int
    epoch: int
    seq: int
    next_offset: int
    state: str
    full: bool
    chunk: int
    chunks: int
    tokens: list[msgspec.Raw]


def usd_text(micros: int) -> str:
    """Format micro-USD as a decimal string of dollars with six fraction digits: -1.500000."""
    sign = "-" if micros < 0 else ""
    whole, rest = divmod(abs(micros), MICROS_PER_USD)
    return f"{sign}{whole}.{rest:06d}"


def usd_micros(text: str) -> int:
    """Parse the output of `usd_text` exactly; truncate any other decimal to micro-USD."""
    if text[-7:-6] == ".":
        return int(text.replace(".", ""))
    return int(Decimal(text) * MICROS_PER_USD)


def token_text(attos: int) -> str:
    """Format units of 10^-18 token as a decimal string of tokens without trailing zeros: 0.25."""
    sign = "-" if attos < 0 else ""
    whole, rest = divmod(abs(attos), ATTOS_PER_TOKEN)
    return sign + (f"{whole}.{rest:018d}".rstrip("0") if rest else str(whole))


def decimal_text(value: float) -> str:
    """Format a float with its shortest round-trip digits, in positional notation."""
    text = repr(value)
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


def vwap_text(volume_micros: int, amount_attos: int) -> str | None:
    """Return volume_usd / volume_token; Python rounds int / int correctly at any size."""
    if amount_attos == 0 or volume_micros == 0:
        return None
    return decimal_text(volume_micros * ATTOS_PER_TOKEN / (amount_attos * MICROS_PER_USD))


def change_pct(opened: float | None, closed: float | None) -> float | None:
    """Return the change from one price to another in percent, rounded to PCT_DIGITS."""
    if opened is None or closed is None:
        return None
    return round((closed - opened) / opened * 100, PCT_DIGITS)
