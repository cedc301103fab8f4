"""Predicts the result of replaying dead letters, before any is sent.

A cut letter lacks bytes; the complete message is read from its source topic while Kafka still holds
it. Sends nothing and commits nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import msgspec
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from aggregator.dead_letters.reader import Letter, assigned_consumer
from aggregator.decoding.rules import decode_swap
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import BadMessage, Retry

_TIMEOUT_S: Final = 5.0


class Outlook(msgspec.Struct, frozen=True):
    """A letter, complete where its original could be read, and why a replay would be refused.

    `refusal` is empty for a letter that would be decoded now.
    """

    letter: Letter
    refusal: str

    def sent(self, *, force: bool) -> bool:
        """Return whether a replay sends the letter; `force` also sends letters with a refusal.

        A letter that lacks bytes is never sent.
        """
        return not self.letter.cut and (force or not self.refusal)


def outlooks(letters: Sequence[Letter], config: Config) -> list[Outlook]:
    """Return the outlook of each letter, in the same order. Raises Retry where Kafka is away."""
    with Originals(config.kafka_bootstrap) as originals:
        return [_outlook(letter, config, originals) for letter in letters]


def refusal_of(letter: Letter, max_future_ms: int) -> str:
    """Return why a complete letter would be refused if it were replayed now; "" if it would not."""
    now_ms = wall_ms()
    try:
        decode_swap(letter.value, now_ms, max_future_ms)
    except BadMessage as error:
        return str(error)
    return ""


def _outlook(letter: Letter, config: Config, originals: Originals) -> Outlook:
    if letter.cut:
        original = originals.find(letter)
        if original is None:
            return Outlook(
                letter,
                f"only {len(letter.value or b''):,} of {letter.cut_from_bytes:,} bytes are left: "
                f"{letter.source} is no longer in Kafka",
            )
        letter = original
    return Outlook(letter, refusal_of(letter, config.max_future_ms))


class Originals:
    """Reads the original messages of letters from their source topics."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._made: Consumer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._made is not None:
            self._made.close()

    def find(self, letter: Letter) -> Letter | None:
        """Return the letter with all bytes; None where Kafka no longer holds them. Raises Retry."""
        place = TopicPartition(letter.source_topic, letter.source_partition)
        try:
            start, end = self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)
            if not start <= letter.source_offset < end:
                return None
            place.offset = letter.source_offset
            self._consumer.assign([place])
            message = self._consumer.poll(_TIMEOUT_S)
        except (KafkaException, TypeError) as error:
            # get_watermark_offsets returns None when it times out.
            raise Retry(f"kafka at {self._bootstrap}: reading {letter.source}: {error}") from error
        if message is None:
            raise Retry(f"kafka at {self._bootstrap} does not deliver {letter.source}")
        fault = message.error()
        if fault is not None:
            raise Retry(f"kafka at {self._bootstrap}: reading {letter.source}: {fault.str()}")
        return _whole(letter, message)

    @property
    def _consumer(self) -> Consumer:
        if self._made is None:
            self._made = assigned_consumer(self._bootstrap, {"auto.offset.reset": "error"})
        return self._made


def _whole(letter: Letter, message: Message) -> Letter | None:
    """Return the letter with the message's bytes.

    None where the offset holds another message, because the topic was created again or compacted.
    """
    value, key = message.value(), message.key()
    if (
        message.offset() != letter.source_offset
        or not isinstance(value, bytes)
        or hashlib.sha256(value).hexdigest() != letter.sha256
    ):
        return None
    key = key.encode() if isinstance(key, str) else key
    return msgspec.structs.replace(letter, value=value, key=key, cut_from_bytes=-1)
