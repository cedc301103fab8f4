"""Whatever fails, a reader receives each trade exactly once or as part of a gap."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from swapclient import Backoff
from swapclient.events import Gap, TradesUpdate
from swapclient.inbox import Inbox
from swapclient.session import Session
from swapclient.topics import Topic

from tests.unit.clients.trading import TOKEN, TradesNode, frame, welcome

STEPS = st.lists(
    st.sampled_from(["trade", "trade", "trade", "lost", "away", "pop", "restart"]), max_size=60
)


class Reader:
    """A client and its node, driven step by step."""

    def __init__(self, buffer: int) -> None:
        self.node = TradesNode()
        self.session = Session(Backoff(), lambda: 0.5, renewable=False)
        self.inbox = Inbox([Topic("trades", TOKEN)], 100, buffer)
        self.session.add(self.inbox)
        self.received: list[TradesUpdate | Gap] = []
        self.connect()

    def receive(self, *messages: dict[str, object]) -> None:
        self.session.received(frame(*messages), 0)

    def connect(self) -> None:
        self.session.connecting()
        self.receive(welcome())
        for request in self.session.requests():
            self.receive(*self.node.subscribe(request))

    def lose(self) -> None:
        assert self.session.lost(None, 0) >= 0

    def pop(self) -> bool:
        event = self.inbox.pop()
        if event is None:
            return False
        assert isinstance(event, TradesUpdate | Gap)
        self.received.append(event)
        return True

    def step(self, name: str) -> None:
        if name == "trade":
            self.receive(self.node.trade())
        elif name == "lost":
            self.lose()
            self.connect()
        elif name == "away":
            self.lose()
            for _ in range(3):
                self.node.trade()
            self.connect()
        elif name == "restart":
            self.lose()
            self.node.restart()
            self.node.trade()
            self.connect()
        else:
            self.pop()


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 12))
def test_each_trade_is_delivered_once_or_is_part_of_a_gap(steps: list[str], buffer: int) -> None:
    reader = Reader(buffer)
    for step in steps:
        reader.step(step)
        assert reader.inbox._weight <= buffer
    while reader.pop():
        pass

    expected = 1
    delivered: list[str] = []
    for event in reader.received:
        if isinstance(event, Gap):
            if event.restarted:
                expected = -1
            else:
                assert expected in {-1, event.from_n}
                assert event.to_n is not None
                assert event.to_n >= event.from_n
                expected = event.to_n + 1
            continue
        for each in event.trades:
            if expected == -1:
                expected = each.n
            assert each.n == expected
            expected += 1
            delivered.append(each.tx_hash)
    assert len(delivered) == len(set(delivered))
    assert expected in {-1, len(reader.node.log) + 1}


def test_a_gap_comes_before_the_trades_that_follow_it() -> None:
    reader = Reader(buffer=100)
    reader.receive(reader.node.trade())
    reader.lose()
    for _ in range(10):
        reader.node.trade()
    reader.connect()
    while reader.pop():
        pass
    _, first, gap, rest = reader.received
    assert [each.n for each in first.trades] == [1]  # type: ignore[union-attr]
    assert gap == Gap(TOKEN, 2, 7, False, "service")
    assert [each.n for each in rest.trades] == [8, 9, 10, 11]  # type: ignore[union-attr]


def test_a_token_without_trades_is_resumed_from_nothing() -> None:
    reader = Reader(buffer=100)
    reader.lose()
    for _ in range(6):
        reader.node.trade()
    reader.connect()
    while reader.pop():
        pass
    empty, gap, rest = reader.received
    assert empty.trades == []  # type: ignore[union-attr]
    assert gap == Gap(TOKEN, 1, 2, False, "service")
    assert [each.n for each in rest.trades] == [3, 4, 5, 6]  # type: ignore[union-attr]


def test_a_number_that_was_left_out_is_a_gap_of_the_connection() -> None:
    reader = Reader(buffer=100)
    reader.receive(reader.node.trade())
    reader.node.trade()
    reader.receive(reader.node.trade())
    while reader.pop():
        pass
    assert Gap(TOKEN, 2, 2, False, "connection") in reader.received


def test_a_second_reader_of_the_token_gets_its_own_snapshot_and_the_first_nothing_twice() -> None:
    reader = Reader(buffer=100)
    reader.receive(reader.node.trade())
    other = Inbox([Topic("trades", TOKEN)], 100, 100)
    reader.session.add(other)
    (request,) = reader.session.requests()
    assert "resume" not in request
    reader.receive(*reader.node.subscribe(request))
    reader.receive(reader.node.trade())
    while reader.pop():
        pass
    assert [[each.n for each in event.trades] for event in reader.received] == [[], [1], [2]]  # type: ignore[union-attr]
    first, second = other.pop(), other.pop()
    assert isinstance(first, TradesUpdate)
    assert isinstance(second, TradesUpdate)
    assert (first.snapshot, [each.n for each in first.trades]) == (True, [1])
    assert (second.snapshot, [each.n for each in second.trades]) == (False, [2])

    reader.session.remove(other)
    assert reader.session.requests() == []
    reader.session.remove(reader.inbox)
    (request,) = reader.session.requests()
    assert (request["method"], request["tokens"]) == ("unsubscribe", [TOKEN])
