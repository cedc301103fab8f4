"""How many questions a node has in flight, whose are next, and which streams ask at all."""

from __future__ import annotations

import msgspec
import pytest

from aggregator.contracts.names import trades_subject
from aggregator.contracts.trades import HISTORY_MINUTES, HistoryRequest, TokenHistory
from aggregator.runtime.backoff import Backoff
from api.auth.access import SubjectLimits
from api.trades import streams
from api.trades.questions import (
    ANSWER_WITHIN_MS,
    FIRST_PAUSE_MS,
    MOST_OF_A_SUBJECT,
    PATIENCE_MS,
    WINDOW,
    Candidate,
    OpenQuestion,
    QuestionPause,
    Questions,
)
from api.trades.streams import IDLE_MS
from tests.unit.sockets.support import A, Node, encoded
from tests.unit.sockets.trading import Seller, rows_of, trade


class Market(Node):
    """A node whose clients may subscribe without a rate limit."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, int] = {}

    def limits_of(self, subject: str) -> SubjectLimits:
        return SubjectLimits(10**6, 10**6)


def asked(made: Market) -> dict[str, HistoryRequest]:
    """Return the questions that were sent since the last call, by token."""
    made.streams.tick(made.now)
    sent, made.wire._to_ask = made.wire._to_ask, []
    requests = [msgspec.json.decode(question, type=HistoryRequest) for _, _, question in sent]
    made.sent |= {request.token_id: each[0] for request, each in zip(requests, sent, strict=True)}
    return {request.token_id: request for request in requests}


def answer(made: Market, token_id: str, minutes: int = 1) -> None:
    """Deliver the owner's answer to the question that was sent last."""
    question_id: int = made.sent[token_id]
    rows = rows_of([trade(n, 1_700_000_040_000 + n * 60_000) for n in range(minutes)])
    history = TokenHistory(token_id, 0, 1, 0, rows, [], from_ms=0)
    made.wire._asked.pop(question_id)(encoded(history))


def market(tokens: int) -> tuple[Market, list[str]]:
    made = Market()
    made.beat()
    names = [f"ethereum:0x{number}" for number in range(tokens)]
    for name in names:
        made.trade(name)
    return made, names


async def test_a_node_has_a_window_of_questions_in_flight() -> None:
    made, names = market(50)
    client = await made.client().enter()
    await client.subscribe("trades", *names)
    first = asked(made)
    assert len(first) == WINDOW
    assert asked(made) == {}
    for token_id in list(first)[:3]:
        answer(made, token_id)
    assert len(asked(made)) == 3
    assert {request.patience_ms for request in first.values()} == {PATIENCE_MS}


async def test_a_question_carries_what_the_subscribers_need() -> None:
    made, (one, other, third) = market(3)
    client = await made.client().enter()
    await client.subscribe("trades", one)
    await client.subscribe("candles", other, interval="1m")
    await client.subscribe("candles", third, interval="1h")
    requests = asked(made)
    assert requests[one].minutes == 0
    assert requests[other].minutes == 301
    assert requests[third].minutes == HISTORY_MINUTES
    for token_id in (one, other, third):
        answer(made, token_id)
    await client.subscribe("candles", other, interval="1d")
    made.run(200)
    assert asked(made)[other].minutes == HISTORY_MINUTES, "a longer interval needs more"


async def test_a_client_with_many_tokens_does_not_hold_up_one_with_a_few() -> None:
    made, names = market(60)
    many, few = await made.client().enter("many"), await made.client().enter("few")
    await many.subscribe("trades", *names[:58])
    await few.subscribe("trades", *names[58:])
    assert set(names[58:]) < set(asked(made))


def test_no_subject_takes_all_windows() -> None:
    questions = Questions()
    waiting = [Candidate(f"t{n}", n % 10, "one") for n in range(200)]
    assert len(questions.choose(waiting)) == MOST_OF_A_SUBJECT
    waiting += [Candidate(f"u{n}", n % 10, "two") for n in range(3)]
    assert sum(each.subject == "two" for each in questions.choose(waiting)) == 3


def test_the_window_shrinks_with_timeouts_and_grows_with_answers() -> None:
    questions = Questions()

    def ask() -> list[OpenQuestion]:
        chosen = questions.choose([Candidate(f"t{n}", 0, f"s{n}") for n in range(100)])
        out = [OpenQuestion(each.token_id, 0, each.subject, 0, 100) for each in chosen]
        for each in out:
            questions.add(each)
        return out

    out = ask()
    assert len(out) == WINDOW
    assert questions.expired(99) == []
    for late in questions.expired(100):
        questions.timed_out(late)
    assert len(ask()) == 1
    for _ in range(20):
        for each in list(questions.out.values()):
            questions.answered(each)
        ask()
    assert len(questions.out) == WINDOW


def test_pauses_grow_with_each_question_that_times_out_and_differ() -> None:
    draws = iter([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0])
    pause = QuestionPause(Backoff(draw=lambda: next(draws)))
    pauses = []
    for _ in range(7):
        pause.timed_out(0)
        pauses.append(pause.not_before)
    assert pauses == [1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 7_500]
    pause.reset(0)
    assert pause.not_before == FIRST_PAUSE_MS


async def test_no_question_is_sent_for_a_stream_without_users() -> None:
    made, names = market(40)
    client = await made.client().enter()
    await client.subscribe("trades", *names)
    first = asked(made)
    client.gone()
    for _ in range(5):
        made.run(ANSWER_WITHIN_MS)
        made.beat()
        assert asked(made) == {}
    assert len(first) == WINDOW


async def test_a_question_of_a_dropped_stream_still_counts_in_the_window() -> None:
    made, names = market(700)
    client = await made.client().enter()
    for begin in range(0, 600, 200):
        await client.subscribe("trades", *names[begin : begin + 200])
        asked(made)
        await client.send(method="unsubscribe", channel="trades", tokens=names[begin : begin + 200])
    assert len(made.streams._questions.out) == WINDOW
    await client.subscribe("trades", names[0])
    assert asked(made) == {}, "the owner still works on the questions that nobody waits for"


async def test_idle_streams_are_kept_for_a_while_and_then_dropped() -> None:
    made, (one,) = market(1)
    client = await made.client().enter()
    await client.subscribe("candles", one, interval="1m")
    asked(made)
    answer(made, one)
    client.gone()
    made.run(1_000)
    made.streams.tick(made.now)
    assert made.streams.ready(one, 301)
    made.now += IDLE_MS
    made.streams.tick(made.now)
    assert not made.streams.ready(one)
    assert trades_subject(one) not in made.wire._watched


async def test_idle_streams_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IDLE_BYTES", 8_000_000)
    made, names = market(12)
    client = await made.client().enter()
    for name in names:
        await client.subscribe("candles", name, interval="1d")
        made.run(10)
        asked(made)
        answer(made, name, HISTORY_MINUTES)
    client.gone()
    made.run(1_100)
    made.streams.tick(made.now)
    kept = [made.streams._held[name].stream for name in names if name in made.streams._held]
    assert 0 < len(kept) < len(names)
    assert sum(stream.size for stream in kept) <= 8_000_000


async def test_a_shortened_answer_is_final_and_says_where_the_candles_begin() -> None:
    made, (one,) = market(1)
    client = await made.client().enter()
    await client.subscribe("candles", one, interval="1m")
    asked(made)
    minutes = [trade(n, 1_700_000_040_000 + n * 60_000) for n in range(1, 11)]
    history = TokenHistory(
        one, 0, 1, 10, rows_of(minutes), [], from_ms=minutes[5].timestamp, shortened=True
    )
    made.wire._asked.pop(made.sent[one])(encoded(history))
    made.run(3_000)
    assert asked(made) == {}
    snapshot = next(each for each in client.messages() if each["type"] == "snapshot")
    begins = [each["open_time"] for each in snapshot["data"]["candles"]]
    assert begins == [each.timestamp for each in minutes[5:]]


async def test_an_owner_that_keeps_two_hours_gives_no_candle_that_began_before() -> None:
    made, (one,) = market(1)
    client = await made.client().enter()
    await client.subscribe("candles", one, interval="1h")
    asked(made)
    hour = 1_700_000_040_000 // 3_600_000 * 3_600_000
    rows = rows_of([trade(n, hour + n * 60_000) for n in range(30, 150)])
    history = TokenHistory(one, 0, 1, 150, rows, [], from_ms=hour + 30 * 60_000)
    made.wire._asked.pop(made.sent[one])(encoded(history))
    made.run(100)
    snapshot = next(each for each in client.messages() if each["type"] == "snapshot")
    candles = snapshot["data"]["candles"]
    assert [(each["open_time"], each["trades"]) for each in candles] == [
        (hour + 3_600_000, 60),
        (hour + 7_200_000, 30),
    ]


async def test_a_new_epoch_asks_the_new_owner_and_not_the_one_that_is_gone() -> None:
    made, (one,) = market(1)
    seller = Seller(one)
    client = await made.client().enter()
    await client.subscribe("trades", one)
    assert set(asked(made)) == {one}
    seller.restart()
    made.wire._watched[trades_subject(one)](encoded(seller.sell(1)))
    assert set(asked(made)) == {one}, "the first question's owner answers no more"
    made.wire._asked.pop(made.sent[one])(encoded(seller.history()))
    made.run(100)
    assert [each["data"]["n"] for each in client.messages("snapshot")] == [1]
    assert A not in made.wire._watched
