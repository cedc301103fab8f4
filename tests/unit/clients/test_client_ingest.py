"""Both clients send the same bodies and make the same of the same answers."""

from __future__ import annotations

import http.client
import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swapclient import Backoff, IngestFailed, IngestRefused, sending
from swapclient.sending import BYTES_A_REQUEST, Answer, SwapBatch, batches, ingest

from tests.integration.client_processes import node

SWAPS = [{"n": number} for number in range(5)]
UNAVAILABLE = {"code": "ingest_unavailable", "detail": "again", "accepted": 1}
MISSING = {"line": 1, "reason": "missing", "field": "chain", "message": "Object missing"}


def taken(count: int, *errors: dict[str, Any]) -> list[Any]:
    return [200, None, {"accepted": count, "rejected": len(errors), "errors": list(errors)}]


def refused(status: int, code: str, **document: Any) -> list[Any]:
    return [status, None, {"code": code, "detail": "why", **document}]


SCRIPTS = {
    "all taken": {"answers": [taken(2), taken(2), taken(1)]},
    "whole bodies again": {
        "answers": [
            [503, "0", UNAVAILABLE],
            [429, "0", {"code": "rate_limited", "detail": "wait"}],
            [0, None, None],
            [502, None, None],
            taken(2),
            taken(2),
            taken(1),
        ]
    },
    "rejected lines by their index": {
        "answers": [
            taken(1, MISSING),
            refused(422, "swaps_rejected", accepted=0, rejected=2, errors=[MISSING]),
            refused(403, "chain_forbidden", accepted=0, rejected=1, errors=[MISSING]),
        ]
    },
    "a token that expired": {
        "answers": [taken(2), refused(401, "token_expired"), taken(2), taken(1)],
        "renewable": True,
    },
    "no other token": {"answers": [taken(2), refused(401, "token_expired")]},
    "refused twice": {
        "answers": [refused(401, "token_expired"), refused(401, "token_revoked")],
        "renewable": True,
    },
    "no scope": {"answers": [refused(403, "scope_missing")]},
    "what is not the service": {"answers": [[200, None, None]]},
    "not in time": {"answers": [taken(2), [503, "9", UNAVAILABLE]], "withinMs": 5_000},
}  # fmt: skip


def script(name: str) -> dict[str, Any]:
    return {"swaps": SWAPS, "most": 2, "withinMs": None, "renewable": False} | SCRIPTS[name]


async def by_python(played: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    sent: list[list[str]] = []
    answers = list(played["answers"])
    tokens = iter(f"token-{number}" for number in range(1, 9))

    def request(sender: Any, body: bytes) -> Answer:
        sent.append([f"Bearer {sender._token}", body.decode().replace(" ", "")])
        status, retry_after, document = answers.pop(0)
        if status == 0:
            raise http.client.RemoteDisconnected("the connection is lost")
        return Answer(status, float(retry_after or 0), document or {})

    async def fresh() -> str:
        return next(tokens)

    monkeypatch.setattr(sending._Sender, "_request", request)
    within_ms = played["withinMs"]
    try:
        result: Any = await ingest(
            "http://node",
            fresh if played["renewable"] else "token",
            played["swaps"],
            most_swaps=played["most"],
            within_s=None if within_ms is None else within_ms / 1000,
            backoff=Backoff(0, 0),
        )
    except IngestFailed as failed:
        status = failed.status if isinstance(failed, IngestRefused) else None
        result = {
            "status": status,
            "code": failed.code,
            "report": failed.report,
            "first": failed.first,
        }
    return {"sent": sent, "result": msgspec.to_builtins(result)}


@pytest.fixture(scope="module")
def by_javascript() -> dict[str, Any]:
    """What the JavaScript client does with every script."""
    done = subprocess.run(
        [*node(), str(Path(__file__).with_name("ingest_replay.mjs"))],
        input="".join(json.dumps(script(name)) + "\n" for name in SCRIPTS),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(zip(SCRIPTS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_clients_agree(
    name: str, by_javascript: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    played = await by_python(script(name), monkeypatch)
    assert by_javascript[name] == played


async def test_the_report_of_rejected_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    result = (await by_python(script("rejected lines by their index"), monkeypatch))["result"]
    assert (result["accepted"], result["rejected"]) == (1, 4)
    assert [each["index"] for each in result["errors"]] == [0, 2, 4]


async def test_a_body_is_sent_again_until_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = (await by_python(script("whole bodies again"), monkeypatch))["sent"]
    bodies = [body for _, body in sent]
    assert bodies == ['{"n":0}\n{"n":1}'] * 5 + ['{"n":2}\n{"n":3}', '{"n":4}']


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 400_000), max_size=12), st.integers(1, 5))
def test_batches_keep_every_swap_once_and_in_order(sizes: list[int], most: int) -> None:
    swaps = [b"x" * size for size in sizes]
    made = list(batches(swaps, most))
    assert [line for each in made for line in each.body.split(b"\n")] == swaps
    for each in made:
        lines = each.body.split(b"\n")
        assert swaps[each.first] == lines[0]
        assert len(lines) <= most
        assert len(each.body) <= BYTES_A_REQUEST or len(lines) == 1


def test_a_swap_is_one_line() -> None:
    assert list(batches([b' {"a":1}\n'])) == [SwapBatch(0, b'{"a":1}')]
    with pytest.raises(ValueError, match="swap 1: give JSON without line breaks"):
        list(batches([{}, b"{\n}"]))


@pytest.mark.parametrize("url", ["", "node:8000", "ws://node"])
async def test_a_wrong_address_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="url: give one such as https://host"):
        await ingest(url, "token", SWAPS)
