"""A token id becomes one valid token of a NATS subject, and can be recovered from it."""

from __future__ import annotations

from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from aggregator.contracts.names import token_subject


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_token_id_is_one_subject_token_and_comes_back(token_id: str) -> None:
    subject = token_subject(token_id)
    last = subject.removeprefix("ws.broadcast.token.")
    assert not set(last) & set(" .*>\t\r\n")
    assert last.isascii()
    assert unquote(last) == token_id


def test_readable_ids_stay_readable() -> None:
    assert token_subject("cosmos:ibc/27394F") == "ws.broadcast.token.cosmos:ibc/27394F"
