"""One spelling of a token id, whatever spelling is given."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.contracts.ids import (
    TokenIdInvalid,
    canonical_token,
    canonical_token_id,
    parse_token_id,
)
from aggregator.decoding.decoder import BatchDecoder
from aggregator.decoding.plain.names import Names
from aggregator.decoding.rules import decode_swap
from aggregator.runtime.errors import BadMessage
from tests.support.columns import records, swap_at

CHECKSUMMED = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
SOLANA = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"

SPELLINGS = [
    ("as it is", "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2", CHECKSUMMED.lower()),
    ("checksummed", CHECKSUMMED, CHECKSUMMED.lower()),
    ("upper case with 0X", CHECKSUMMED.upper(), CHECKSUMMED.lower()),
    ("40 digits without 0x", CHECKSUMMED[2:], CHECKSUMMED[2:]),
    ("39 digits", CHECKSUMMED[:-1], CHECKSUMMED[:-1]),
    ("64 digits, no Move type", "0x" + "0A" * 32, "0x" + "0A" * 32),
    ("base58 keeps its case", SOLANA, SOLANA),
    ("IBC keeps its case", "ibc/27394FB092D2ECCD", "ibc/27394FB092D2ECCD"),
    ("TON keeps its case", "EQ+a=b@c", "EQ+a=b@c"),
    ("Move", "0x2::sui::SUI", "0x2::sui::SUI"),
    ("Move, long", f"0x{'0' * 63}2::sui::SUI", "0x2::sui::SUI"),
    ("Move, upper case", "0X00AbC::Mod_1::Name", "0xabc::Mod_1::Name"),
    ("Move, the address 0", "0x000::a::B", "0x0::a::B"),
    (
        "Move, type arguments",
        "0x02::pool::LP< 0x0A::a::A , vector<0x0b::b::B>,u64 >",
        "0x2::pool::LP<0xa::a::A,vector<0xb::b::B>,u64>",
    ),
    ("Move, white space around ::", "0x2 :: sui ::\tSUI", "0x2::sui::SUI"),
    ("no Move type, two parts only", "0x002::sui", "0x002::sui"),
    ("no Move type, a dash", "0x002::s-ui::SUI", "0x002::s-ui::SUI"),
]


@pytest.mark.parametrize(
    ("name", "given", "canonical"), SPELLINGS, ids=[each[0] for each in SPELLINGS]
)
def test_a_spelling(name: str, given: str, canonical: str) -> None:
    assert canonical_token(given) == canonical
    assert canonical_token_id(f"sui:{given}") == f"sui:{canonical}"
    assert parse_token_id(f"sui:{given}") == ("sui", canonical)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("foo", "chain:token"),
        ("", "chain:token"),
        (":x", "chain:token"),
        ("-a:x", "chain:token"),
        ("a b:x", "chain:token"),
        ("x/y:z", "chain:token"),
        ("Ethereum:WETH", "in lower case: ethereum"),
        ("ethereum:", "empty"),
        ("ethereum:a b", "white space"),
        ("ethereum:a\x00", "control"),
        ("ethereum:a\u00a0b", "white space"),
        ("sui:0x2::a b::C", "white space"),
        ("a:" + "x" * 257, "256"),
        ("a:0x2::b::" + "C" * 2_000, "256"),
        ("a" * 33 + ":x", "chain"),
    ],
)
def test_what_cannot_be_an_id(text: str, said: str) -> None:
    with pytest.raises(TokenIdInvalid, match=said):
        canonical_token_id(text)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
addresses = st.from_regex(r"0[xX]0{0,4}[0-9a-fA-F]{1,8}", fullmatch=True)
space = st.sampled_from(["", "", " ", "  "])
plain_types = st.builds("{}{}::{}{}::{}".format, addresses, space, space, names, names)
move_types = st.builds(
    lambda outer, inner, gap: f"{outer}<{gap.join([*inner[:1], *(f',{t}' for t in inner[1:])])}>",
    plain_types,
    st.lists(plain_types | st.sampled_from(["u64", "vector<u8>"]), min_size=1, max_size=2),
    space,
)
tokens = st.one_of(
    plain_types,
    move_types,
    st.from_regex(r"0[xX][0-9a-fA-F]{39,41}", fullmatch=True),
    st.text(alphabet="aA0xX:<>, _-é\x7f\u3000", min_size=1, max_size=24),
    st.sampled_from([each[1] for each in SPELLINGS]),
)


@settings(max_examples=400, deadline=None)
@given(token=tokens)
def test_it_does_not_change_what_is_canonical(token: str) -> None:
    try:
        once = canonical_token(token)
    except TokenIdInvalid:
        return
    assert canonical_token(once) == once


NOW = 1_700_000_000_000
BATCHES = BatchDecoder(0, Names(most=16))


@settings(max_examples=400, deadline=None)
@given(token=tokens)
def test_ingest_counts_and_archives_under_the_id_that_a_question_finds(token: str) -> None:
    """By each way of decoding, the first time and when the name is known."""
    event = {"chain": "sui", "tx_hash": "a1", "log_index": 0, "timestamp": NOW, "side": "buy"}
    value = json.dumps(event | {"token": token, "amount": "1"}, ensure_ascii=False).encode()
    try:
        expected = canonical_token_id(f"sui:{token}")
    except TokenIdInvalid:
        with pytest.raises(BadMessage):
            decode_swap(value, NOW, 0)
        assert len(BATCHES.decode(records([value], NOW)).rejected) == 1
        return
    swap = decode_swap(value, NOW, 0)
    assert swap.token_id == expected
    for _ in range(2):
        found = BATCHES.decode(records([value], NOW)).swaps
        assert found.token_names[found.records["name"][0]].token_id == expected
        chain, archived, *_ = found.texts(0)
        assert f"{chain}:{archived}" == expected
        assert swap_at(found, 0) == swap
