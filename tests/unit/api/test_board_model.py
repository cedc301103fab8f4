"""The board against a model owner, over messages that are lost, repeated and reordered.

Whatever happens on the way, a partition's (epoch, seq) and next_offset never go back; and once
messages are no longer lost the board ends equal to the owner.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aggregator.contracts.stats import Heartbeat, ResyncChunk, TokenStats
from api.board.board import Board
from tests.unit.api.samples import Owner

TOKENS = [f"ethereum:{number}" for number in range(5)]
Message = TokenStats | Heartbeat | tuple[int, ResyncChunk]


class BoardFollowsOwner(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.board = Board(stale_after_ms=3_000, jitter=lambda: 0.5)
        self.owner = Owner(epoch=1)
        self.zombies: list[Owner] = []
        self.wire: list[Message] = []
        self.now = 0
        self.highest = (0, 0, 0)

    @rule(token=st.sampled_from(TOKENS))
    def trade(self, token: str) -> None:
        if self.owner.state == "live":
            self.wire.append(self.owner.trade(token))

    @rule(token=st.sampled_from(TOKENS), which=st.integers(0, 3))
    def zombie_trades(self, token: str, which: int) -> None:
        if self.zombies:
            zombie = self.zombies[which % len(self.zombies)]
            self.wire += [zombie.trade(token), zombie.heartbeat(self.now)]

    @rule()
    def heartbeat(self) -> None:
        self.wire.append(self.owner.heartbeat(self.now))

    @rule(lag=st.integers(0, 4), rebuilds=st.booleans(), forgets=st.booleans())
    def new_owner(self, lag: int, rebuilds: bool, forgets: bool) -> None:
        old = self.owner
        self.zombies.append(old)
        self.owner = Owner(epoch=old.epoch + 1, next_offset=max(0, old.next_offset - lag))
        self.owner.state = "rebuilding" if rebuilds else "live"
        if self.owner.state == "live":
            for token in sorted(old.rows)[forgets:]:
                self.owner.trade(token, offsets=0)

    @rule()
    def rebuilt(self) -> None:
        if self.owner.state == "rebuilding":
            self.owner.next_offset = max(each.next_offset for each in self.zombies)
            self.owner.state = "live"

    @rule(delay=st.sampled_from([10, 60, 250, 1_100, 3_500]))
    def time_passes(self, delay: int) -> None:
        self.now += delay
        self.ask()

    @rule(data=st.data())
    def deliver_in_any_order(self, data: st.DataObject) -> None:
        if self.wire:
            index = data.draw(st.integers(0, len(self.wire) - 1))
            self.deliver(self.wire.pop(index))

    @rule(count=st.integers(1, 6))
    def deliver_in_order(self, count: int) -> None:
        batch, self.wire = self.wire[:count], self.wire[count:]
        for message in batch:
            self.deliver(message)

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        if self.wire:
            self.deliver(data.draw(st.sampled_from(self.wire)))

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        if self.wire:
            self.wire.pop(data.draw(st.integers(0, len(self.wire) - 1)))

    @rule()
    def a_quiet_second(self) -> None:
        """The usual case: all messages in flight arrive, a question is sent and answered."""
        self.wire.append(self.owner.heartbeat(self.now))
        for _ in range(4):
            self.deliver_all()
            self.now += 250
            self.ask()
        self.deliver_all()

    @rule()
    def reconnect(self) -> None:
        self.wire.clear()
        self.board.reconnected(self.now)

    @invariant()
    def nothing_goes_back(self) -> None:
        for status in self.board.status(self.now):
            reached = (status.epoch, status.seq, status.next_offset)
            assert reached[:2] >= self.highest[:2]
            assert reached[2] >= self.highest[2]
            self.highest = reached

    @invariant()
    def rows_are_of_what_is_claimed(self) -> None:
        for status in self.board.status(self.now):
            for row in self.board.rows.values():
                assert row.epoch == status.epoch
                assert row.seq <= status.seq
                assert row.next_offset <= status.next_offset

    def teardown(self) -> None:
        """Lose nothing from here on: within seconds the board shows what the owner has."""
        self.rebuilt()
        shown = max((each.next_offset for each in [*self.zombies, self.owner]), default=0)
        self.owner.trade(TOKENS[0], offsets=max(1, shown - self.owner.next_offset))
        self.wire.clear()
        for _ in range(100):
            self.now += 250
            self.board.heartbeat(self.owner.heartbeat(self.now), self.now)
            self.ask()
            self.deliver_all()
            self.nothing_goes_back()
        assert dict(self.board.rows) == self.owner.rows
        assert self.board.stale_partitions(self.now) == set()
        assert self.board.status(self.now)[0].in_sync

    def ask(self) -> None:
        for ask in self.board.due(self.now):
            for owner in (self.owner, *self.zombies[-1:]):
                self.wire += [
                    (ask.request_id, chunk) for chunk in owner.answer(ask.request, per_chunk=2)
                ]

    def deliver_all(self) -> None:
        while self.wire:
            self.deliver(self.wire.pop(0))

    def deliver(self, message: Message) -> None:
        if isinstance(message, TokenStats):
            self.board.patch(message, self.now)
        elif isinstance(message, Heartbeat):
            self.board.heartbeat(message, self.now)
        else:
            self.board.answer(*message, self.now)


TestBoardFollowsOwner = BoardFollowsOwner.TestCase
TestBoardFollowsOwner.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
