"""What the journals say about the sources, and which process owns each, for operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from aggregator.producing.producer import reason_of
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Retry
from sources.evm.history import BEGIN, CHAIN, FOLLOW, BeginEntry, BlockEntry, FollowEntry, entry
from sources.evm.types import ChainIdentity
from sources.exchange.books import SYMBOL
from sources.journal import OWNER_KEY, SourceOwner, group_of, read_journals

_ANSWER_S: Final = 10.0


class SourceOverview(NamedTuple):
    """A source as its journal has it.

    `kind` is "evm", "exchange", or "-" where the source has not begun. `members` is the number of
    processes in its group: the owner, and those that stand by. `owner` is the process that last
    owned it, and `position` says how far it is.
    """

    name: str
    kind: str
    members: int
    owner: str
    position: str
    entries: Mapping[str, bytes]


def overview(config: Config) -> list[SourceOverview]:
    """Return the sources that have a journal, by name. Raises Retry and Fatal: `read_journals`."""
    journals = read_journals(config)
    members = _members(config, list(journals))
    found = []
    for name, entries in sorted(journals.items()):
        kind, position = position_of(entries)
        found.append(SourceOverview(name, kind, members[name], _owner(entries), position, entries))
    return found


def position_of(entries: Mapping[str, bytes]) -> tuple[str, str]:
    """Return the kind of the source that wrote these entries, and how far it is. Pure."""
    chain, begun = entry(entries, CHAIN, ChainIdentity), entry(entries, FOLLOW, FollowEntry)
    if chain is None and begun is None:
        symbols = sum(key.startswith(SYMBOL) for key in entries)
        return ("exchange", f"{symbols} symbols") if symbols else ("-", "has not begun")
    begin = entry(entries, BEGIN, BeginEntry)
    newest = _newest_block(entries, 0 if begun is None else begun.seq)
    if newest is not None:
        said = f"block {newest.number} {newest.state}"
    else:
        said = "has not begun" if begun is None else f"all blocks before {begun.first} are sent"
    return "evm", said if begin is None else f"{said}; begins at {begin.from_block} next"


def _newest_block(entries: Mapping[str, bytes], after: int) -> BlockEntry | None:
    keys = (key for key in entries if key.startswith("block:") and "." not in key)
    blocks = (entry(entries, key, BlockEntry) for key in keys)
    newer = [each for each in blocks if each is not None and each.seq > after]
    return max(newer, key=lambda each: each.seq, default=None)


def _owner(entries: Mapping[str, bytes]) -> str:
    value = entries.get(OWNER_KEY)
    return "-" if value is None else msgspec.json.decode(value, type=SourceOwner).process


def _members(config: Config, names: list[str]) -> Mapping[str, int]:
    if not names:
        return {}
    admin: Any = AdminClient({"bootstrap.servers": config.kafka_bootstrap, "log_level": 0})
    asked = admin.describe_consumer_groups(
        [group_of(name) for name in names], request_timeout=_ANSWER_S
    )
    try:
        return {
            name: len(asked[group_of(name)].result(timeout=_ANSWER_S + 1).members) for name in names
        }
    except KafkaException as error:
        raise Retry(f"kafka: describing the groups of sources: {reason_of(error)}") from error
