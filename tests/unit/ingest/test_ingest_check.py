"""The verdict on each event is the aggregator's own, and its key is the token's canonical id."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aggregator.decoding.rules import decode_swap
from aggregator.runtime.errors import BadMessage
from api.http import ingest_examples as examples
from api.ingest.body import SentEvents
from api.ingest.check import LINE_BYTES, EventCheck
from api.ingest.verdicts import MOST_ERRORS, LineVerdicts, RefusedLine

NOW = 1_763_913_600_000
MAX_FUTURE_MS = 300_000


@pytest.fixture(scope="module")
def check() -> EventCheck:
    return EventCheck(MAX_FUTURE_MS)


def event(**fields: Any) -> bytes:
    known = {
        "chain": "ethereum",
        "tx_hash": "0xab",
        "log_index": 0,
        "timestamp": NOW,
        "token": "WETH",
        "side": "buy",
        "amount": "1",
    }
    return json.dumps({k: v for k, v in (known | fields).items() if v is not ...}).encode()


async def verdicts(
    check: EventCheck, *values: bytes, chains: frozenset[str] | None = None
) -> LineVerdicts:
    return await check.check(SentEvents(list(values), list(range(1, len(values) + 1))), NOW, chains)


ODD = [
    event(),
    event(amount="-1"),
    event(side=...),
    event(timestamp="2025-11-23T16:00:00Z"),
    event(timestamp=NOW // 1000),
    event(timestamp=NOW + MAX_FUTURE_MS),
    event(timestamp=NOW + MAX_FUTURE_MS + 1),
    event(timestamp=NOW + MAX_FUTURE_MS + 1, removed=True),
    event(token="0xC02aaA39b223FE8D0A0e5C4f27eAD9083C756Cc2"),
    event(token="0x0002::sui::SUI", chain="sui"),
    event(log_index="0"),
    event(symbol="\u202eHTEW"),
    event(leg=2),
    b"not JSON",
    b"[]",
    b'{"chain":"\xff"}',
]


async def test_the_verdicts_are_those_of_the_rules(check: EventCheck) -> None:
    found = await verdicts(check, *ODD)
    records, errors = [], []
    for line, value in enumerate(ODD, 1):
        try:
            swap = decode_swap(value, NOW, MAX_FUTURE_MS)
        except BadMessage as error:
            errors.append(RefusedLine(line, error.reason, error.field, error.detail))
        else:
            records.append((swap.token_id.encode(), value))
    assert found.records == records
    assert found.errors == errors
    assert found.refused == len(errors) == 9


async def test_the_examples_of_the_description_are_good(check: EventCheck) -> None:
    found = await verdicts(check, *(json.dumps(each).encode() for each in examples.SWAPS))
    assert [key.decode() for key, _ in found.records] == [
        f"ethereum:{each['token']}" for each in examples.SWAPS
    ]
    bad = await verdicts(check, *[event()] * 6, event(amount=-1))
    assert bad.errors == [RefusedLine(**each) for each in examples.ERRORS]


async def test_a_token_that_is_bound_to_chains_writes_only_those(check: EventCheck) -> None:
    sent = [event(chain="base"), event(), event(chain="base", amount="x")]
    found = await verdicts(check, *sent, chains=frozenset({"base", "arbitrum"}))
    assert [value for _, value in found.records] == sent[:1]
    assert found.errors[0] == RefusedLine(2, "chain", "chain", "the token may write arbitrum, base")
    assert found.reasons == {"chain": 1, "rule": 1}
    none = await verdicts(check, event(), chains=frozenset())
    assert none.errors[0].message == "the token may write no chain"


async def test_a_line_has_a_limit(check: EventCheck) -> None:
    room = LINE_BYTES - len(event(note=""))
    found = await verdicts(check, event(note="x" * room), event(note="x" * (room + 1)))
    assert len(found.records) == 1
    assert found.errors == [RefusedLine(2, "too_large", "", "65,537 bytes; at most 65,536")]


async def test_all_refusals_are_counted_and_the_first_are_listed(check: EventCheck) -> None:
    found = await verdicts(check, *[b"{}"] * 350)
    assert (found.refused, len(found.errors)) == (350, MOST_ERRORS)
    assert [each.line for each in found.errors] == list(range(1, MOST_ERRORS + 1))


async def test_other_tasks_run_while_a_body_is_checked(check: EventCheck) -> None:
    values = [event(log_index=n) for n in range(1_000)]
    checking = asyncio.ensure_future(verdicts(check, *values))
    turns = 0
    while not checking.done():
        await asyncio.sleep(0)
        turns += 1
    assert len((await checking).records) == 1_000
    assert turns > 10, "a turn of the loop checks 100 events at most"
