"""The parts of a message that a dead letter's headers repeat are bounded."""

from __future__ import annotations

import json

import pytest

from aggregator.decoding.rules import decode_swap
from aggregator.runtime.errors import BadMessage

GOOD = {
    "chain": "ethereum", "tx_hash": "0xa", "log_index": 0, "timestamp": 0, "token": "T",
    "side": "buy", "amount": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"side": "z" * 600_000},
        {"side": "`$." + "z" * 600_000 + "`"},
        {"timestamp": "z" * 600_000},
        {"amount": "z" * 600_000},
        {"chain": "z" * 600_000},
    ],
)
def test_detail_and_field_are_short(change: dict[str, str]) -> None:
    with pytest.raises(BadMessage) as caught:
        decode_swap(json.dumps(GOOD | change).encode(), 0, 0)
    assert len(caught.value.detail) <= 1_000
    assert len(caught.value.field) <= 100
    assert len(str(caught.value)) <= 1_200


def test_the_end_of_a_long_detail_says_where() -> None:
    with pytest.raises(BadMessage) as caught:
        decode_swap(json.dumps(GOOD | {"side": "z" * 600_000}).encode(), 0, 0)
    assert caught.value.detail.endswith("zz' - at `$.side`")


def test_a_short_detail_is_kept_whole() -> None:
    assert BadMessage("rule", "f" * 100, "d" * 1_000).detail == "d" * 1_000
    assert BadMessage("rule", "f" * 100, "d" * 1_000).field == "f" * 100


@pytest.mark.parametrize("side", ["`$.amount`", "Object missing required field `chain`"])
def test_a_message_cannot_name_another_field(side: str) -> None:
    with pytest.raises(BadMessage) as caught:
        decode_swap(json.dumps(GOOD | {"side": side}).encode(), 0, 0)
    assert (caught.value.reason, caught.value.field) == ("rule", "side")
