"""What only the specification promises: exact distinct traders after a retraction."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.spec.windows import ReferenceWindows
from tests.support.oracle import MINUTE
from tests.unit.windows.service import T0, Service, swap_event

trades = st.lists(
    st.tuples(
        st.integers(-2, 0),
        st.sampled_from([None, "ann", "bob", "carol"]),
        st.sampled_from(["buy", "sell"]),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(trades)
def test_distinct_traders_are_exact_whatever_was_retracted(
    trades: list[tuple[int, str | None, str, bool]],
) -> None:
    service = Service(ReferenceWindows, now=T0)
    events = [
        swap_event(T0 + minute * MINUTE, number, trader=trader, side=side)
        for number, (minute, trader, side, _) in enumerate(trades)
    ]
    for event in events:
        service.read(event)
    for event, (*_, retracted) in zip(events, trades, strict=True):
        if retracted:
            service.read({**event, "removed": True})
    service.publish(T0)
    service.assert_right()
    for token, numbers in service.truth().items():
        for name, expected in numbers.windows.items():
            shown = service.board[token].windows[name]
            assert (shown.traders, shown.buyers, shown.sellers) == (
                expected.traders,
                expected.buyers,
                expected.sellers,
            )
