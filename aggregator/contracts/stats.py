"""The numbers of a token as they travel: the same shape on NATS, REST and WebSocket (DESIGN 7).

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
    """The window of the same length that ends where its `WindowStats` begins.

    `price_change_pct` is from the first to the last price inside it.
    """

    volume_usd: str
    trades: int
    price_change_pct: float | None


class WindowStats(msgspec.Struct, frozen=True, gc=False):
    """One rolling window of one token: the minute buckets of [open_time, close_time).

    `complete` is false until the history behind it reaches back to `open_time`. `traders`,
    `buyers` and `sellers` are the distinct traders of its trades, buys and sells, exact at any
    size; a trade that does not name its trader is in none of them. Prices (`*_usd` of open, high,
    low, close, vwap) are null where no priced trade is in the window. `volume_usd`,
    `buy_volume_usd`, `sell_volume_usd` and `net_volume_usd` (buys less sells) sum priced trades
    exactly; `volume_token` sums the token amounts of priced trades; vwap_usd = volume_usd /
    volume_token; price_change_pct = (close - open) / open * 100; `largest_trade_usd` is the
    largest single priced trade. `previous` is null until the history reaches back over it whole.

    `approximate` tells that a swap of one of the window's minutes was retracted. The sums are exact
    all the same; but open, high, low, close, the largest trade and the distinct counts of that
    minute may still be those with the retracted swap, as long as the minute has another trade.
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
    """What happened to a token's events besides being counted, since the state began."""

    unpriced: int = 0
    duplicates: int = 0
    late: int = 0
    retracted: int = 0


class TokenStats(msgspec.Struct, frozen=True, gc=False):
    """Everything known of one token. On NATS this is one patch.

    (epoch, seq) orders the states of a partition: a higher epoch is a newer owner, seq counts that
    owner's patches without a gap. `next_offset` is the Kafka offset up to which the numbers count.
    `as_of` is the instant that the windows end at, `watermark` the newest event time of the
    partition. A row without `windows` is the last of its token: its owner has let go of it. `stale`
    is set by the web node when the partition's owner is silent.
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
    """What an owner did with the records of its partition since it took it, replays included."""

    records: int = 0
    duplicates: int = 0
    late: int = 0
    dead_letters: int = 0


class Heartbeat(msgspec.Struct, frozen=True, gc=False):
    """What a partition's owner says every second on `swaps.heartbeat.<partition>`.

    `partitions` is the number of partitions of the topic, so that a web node knows how many owners
    to expect. `state` is "rebuilding" while a replay has not passed the high watermark seen at
    assignment (`target_offset`; nothing is published until then, `seq` stays 0), then "live";
    "stalled" while an engine is unreachable and nothing can be counted. Numbers of a partition
    that is not live are stale. `lag` is offsets behind the log's end, null while the broker cannot
    be asked. `degraded` names what is wrong with the owner, an empty list where nothing is.
    `owner` is the process (host and pid) and `version` what it runs, for operators.
    `snapshot_age_ms` is how long ago the partition was last saved, null before the first time.
    `settings` are those that every process must have alike (`Config.counting`), for the doctor.
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
    """What a partition's archiver says every second on `swaps.archive.<partition>`.

    `state` is "settling" while what an owner before had begun is brought to its end, "checking_in"
    until Redis is known to hold the markers of what is archived, then "archiving"; "stalled" while
    an engine is unreachable, which `fault` names. Every offset below `next_offset` is archived;
    `lag` is offsets behind the log's end, `age_ms` how long the oldest record that is not archived
    has been in the log, null where it was not read yet. `gaps` are the newest offsets [first,
    behind the last] that Kafka no longer held when they were to be archived.
    """

    partition: int
    state: str
    next_offset: int
    lag: int
    age_ms: int | None
    gaps: list[list[int]]
    fault: str | None


class ResyncRequest(msgspec.Struct, frozen=True, gc=False):
    """A web node's question on `swaps.resync.<partition>`.

    `since` is the last seq that it has of `epoch`; 0, or an epoch that is not the owner's, asks for
    everything.
    """

    epoch: int
    since: int


class ResyncChunk(msgspec.Struct, frozen=True, gc=False):
    """One message of the owner's answer, sent to the request's reply subject.

    An answer is `chunks` messages with `chunk` = 0 … chunks-1, all of one (epoch, seq): every token
    whose newest patch has since < seq. `full` tells that it is the whole partition. The state
    "rebuilding" means that the owner cannot answer yet: no tokens, ask again later.
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
    """Micro-USD as a decimal string of dollars with six digits, e.g. -1.500000."""
    sign = "-" if micros < 0 else ""
    whole, rest = divmod(abs(micros), MICROS_PER_USD)
    return f"{sign}{whole}.{rest:06d}"


def usd_micros(text: str) -> int:
    """The inverse of `usd_text`, exact; any other decimal is cut to micro-USD."""
    if text[-7:-6] == ".":
        return int(text.replace(".", ""))
    return int(Decimal(text) * MICROS_PER_USD)


def token_text(attos: int) -> str:
    """Units of 10^-18 token as a decimal string of tokens without trailing zeros, e.g. 0.25."""
    sign = "-" if attos < 0 else ""
    whole, rest = divmod(abs(attos), ATTOS_PER_TOKEN)
    return sign + (f"{whole}.{rest:018d}".rstrip("0") if rest else str(whole))


def decimal_text(value: float) -> str:
    """A float's shortest exact-round-trip digits in positional notation, never an exponent."""
    text = repr(value)
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


def vwap_text(volume_micros: int, amount_attos: int) -> str | None:
    """volume_usd / volume_token; int / int is correctly rounded in Python at any size."""
    if amount_attos == 0 or volume_micros == 0:
        return None
    return decimal_text(volume_micros * ATTOS_PER_TOKEN / (amount_attos * MICROS_PER_USD))


def change_pct(opened: float | None, closed: float | None) -> float | None:
    """The change from one price to another in percent of the first, rounded to PCT_DIGITS."""
    if opened is None or closed is None:
        return None
    return round((closed - opened) / opened * 100, PCT_DIGITS)
