"""The follower against chains that fork at random; the oracle is the canonical chain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.evm.follower import Ask, Follower, Read, Retract, TooDeep, Wait
from sources.evm.types import BlockRef
from tests.unit.sources.evm.chain_model import ForkingChain

MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("mine"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("fork"), st.integers(1, 5), st.integers(0, 6)),
        st.tuples(st.just("flip_back"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


def move(chain: ForkingChain, kind: str, first: int, second: int) -> None:
    match kind:
        case "mine":
            chain.mine(first)
        case "fork":
            chain.fork(first, second)
        case _:
            chain.flip_back()


class Walk:
    """Drives a follower, and checks each action against what was sent before."""

    def __init__(self, follower: Follower, chain: ForkingChain) -> None:
        self.follower, self.chain = follower, chain
        self.sent: list[BlockRef] = []
        self.asked = 0

    def step(self, between: Callable[[], None] = lambda: None) -> str:
        """Follow until the follower waits; `between` is called before each answer."""
        head, answers = self.chain.head, dict[int, BlockRef | None]()
        while True:
            match self.follower.decide(head, answers):
                case Ask(number):
                    between()
                    self.asked += 1
                    assert number not in answers, "asked twice"
                    answers[number] = self.chain.block(number)
                case Read(block):
                    assert not self.sent or block.parent == self.sent[-1].hash
                    self.sent.append(block)
                    self.follower.added(block)
                case Retract(block):
                    assert self.sent.pop() == block
                    self.follower.retracted()
                case Wait(why):
                    return why


@settings(max_examples=80, deadline=None)
@given(MOVES, st.data())
def test_what_was_sent_is_the_canonical_chain_in_the_end(
    moves: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    chain = ForkingChain()
    walk = Walk(Follower(0, None, keep=100), chain)
    waiting = list(moves)

    def meanwhile() -> None:
        if waiting and data.draw(st.booleans()):
            move(chain, *waiting.pop(0))

    while waiting:
        move(chain, *waiting.pop(0))
        walk.step(meanwhile)
    highest = max(
        [*(block.number for block in walk.sent), *(len(one) for one in chain.left)], default=0
    )
    chain.mine(highest + 1 - len(chain.canonical) if highest >= len(chain.canonical) else 1)
    walk.step()
    walk.step()
    assert walk.sent == chain.canonical


def test_a_child_of_the_newest_block_costs_no_question() -> None:
    chain = ForkingChain()
    walk = Walk(Follower(0, None, keep=10), chain)
    walk.step()
    for _ in range(5):
        chain.mine()
        walk.step()
    assert walk.asked == 0
    assert walk.sent == chain.canonical


def test_a_reorganisation_costs_a_question_for_each_block_it_dropped() -> None:
    chain = ForkingChain()
    chain.mine(9)
    walk = Walk(Follower(0, None, keep=10), chain)
    walk.step()
    walk.asked = 0
    chain.fork(3, 4)
    walk.step()
    assert walk.asked == 3
    assert walk.sent == chain.canonical


def test_a_node_that_lags_takes_nothing_back() -> None:
    chain, lagging = ForkingChain(), ForkingChain()
    chain.mine(9)
    lagging.canonical = chain.canonical[:4]
    walk = Walk(Follower(0, None, keep=10), chain)
    walk.step()
    walk.chain = lagging
    assert walk.step() == "nothing is newer"
    assert len(walk.sent) == 10


def test_a_node_older_than_all_that_is_kept_proves_nothing() -> None:
    chain, lagging = ForkingChain(), ForkingChain()
    chain.mine(9)
    lagging.canonical = chain.canonical[:4]
    walk = Walk(Follower(0, None, keep=2), chain)
    walk.step()
    walk.chain = lagging
    assert walk.step() == "the node's head is older than all that is kept"


def test_a_shorter_chain_takes_back_what_it_does_not_have() -> None:
    chain = ForkingChain()
    chain.mine(9)
    walk = Walk(Follower(0, None, keep=10), chain)
    walk.step()
    chain.fork(4, 2)
    walk.step()
    assert walk.sent == chain.canonical


def test_a_missing_block_is_waited_for() -> None:
    chain = ForkingChain()
    chain.mine(3)
    follower = Follower(0, None, keep=10)
    assert follower.decide(chain.head, {0: None}) == Wait(
        "the node has not got a block below its head"
    )


def test_deeper_than_kept_stops_before_anything_is_taken_back() -> None:
    chain = ForkingChain()
    chain.mine(9)
    walk = Walk(Follower(0, None, keep=3), chain)
    walk.step()
    kept = list(walk.follower.kept)
    chain.fork(5, 8)
    with pytest.raises(TooDeep, match=r"below block 7, the oldest that is kept"):
        walk.step()
    assert list(walk.follower.kept) == kept


def test_all_that_was_sent_may_be_dropped_where_nothing_older_was_sent() -> None:
    chain = ForkingChain()
    chain.mine(5)
    walk = Walk(Follower(4, None, keep=10), chain)
    walk.step()
    chain.fork(4, 5)
    walk.step()
    assert walk.sent == chain.canonical[4:]


def test_the_root_is_checked_before_the_first_block_is_read() -> None:
    chain = ForkingChain()
    chain.mine(5)
    with pytest.raises(TooDeep, match=r"was 0xother and is 0x2"):
        Walk(Follower(3, "0xother", keep=10), chain).step()
    walk = Walk(Follower(3, chain.canonical[2].hash, keep=10), chain)
    walk.step()
    assert walk.sent == chain.canonical[3:]
