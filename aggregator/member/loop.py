"""The loop of a group member: joins, acquires partitions, polls, and hands records to a sink.

One thread runs it, and nothing in it waits longer than a poll. What an engine makes wait, waits in
the sink, which is asked again each round; what Kafka makes wait is tried again after a growing,
jittered pause, each partition on its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import structlog

from aggregator.member.log import Log, Polled, Records
from aggregator.member.sink import Release, Sink
from aggregator.runtime import metrics
from aggregator.runtime.backoff import Backoff, CircuitBreaker
from aggregator.runtime.errors import Fatal, Fenced, Retry, SwapsError

log = structlog.get_logger(__name__)

POLL_S: Final = 0.05
"""The longest that a poll waits for records."""
STEADY_S: Final = 30.0
"""A partition that was read for this long starts with the shortest pause when it is released."""
_LONGEST_PAUSE_S: Final = 5.0
_FAILED_PAUSE_S: Final = 60.0

_NOTHING: Final = Polled([], {}, [])


class _Assigned:
    """A partition that the group has assigned to this member, and how far it was taken."""

    def __init__(self, backoff: Backoff) -> None:
        self.backoff = backoff
        self.acquiring = False  # `Sink.acquire` was called, so `Sink.release` is due
        self.begin_at: int | None = None  # `acquire` returned, the log was not sought there yet
        self.reading = False
        self.paused = False
        self.fault = ""
        self.failed = False  # the fault is Fatal
        self.reading_since = 0.0


class MemberLoop:
    """A member of a consumer group and its partitions.

    `prepare` runs until it succeeds before the group is joined; it raises Retry and Fatal
    (`ensure_topics`). `joined` receives the number of partitions of the topic.

    A partition whose `acquire` raises Fatal is reported and tried again after up to a minute, and
    the other partitions go on: one log that was cut must not end all counting. Where no partition
    is left that can be read or acquired, Fatal ends the process, so that its supervisor and its
    operators see it.
    """

    def __init__(
        self,
        swap_log: Log,
        sink: Sink,
        *,
        batch_size: int,
        stop: threading.Event,
        prepare: Callable[[], object] = lambda: None,
        joined: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        poll_s: float = POLL_S,
    ) -> None:
        self._log = swap_log
        self._sink = sink
        self._batch_size = batch_size
        self._stop = stop
        self._prepare = prepare
        self._on_joined = joined
        self._clock = clock
        self._poll_s = poll_s
        self._assigned: dict[int, _Assigned] = {}
        self._joined = False
        # Joining and polling; `_unreachable` is what the client says meanwhile.
        self._kafka = CircuitBreaker("kafka", Backoff(clock=clock))
        self._unreachable = ""
        self._asking: Future[bool] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kafka-reachable")
        self._ask_again = Backoff(0.5, 2.0, clock=clock)
        self._turn_fault = ""
        # A Fatal of a callback: the client would be left between two assignments if it were raised
        # inside.
        self._fatal: Fatal | None = None

    @property
    def owned(self) -> set[int]:
        """The partitions that are read."""
        return {each for each, state in self._assigned.items() if state.reading}

    @property
    def pending(self) -> set[int]:
        """The partitions that are assigned and not read yet."""
        return {each for each, state in self._assigned.items() if not state.reading}

    def faults(self) -> dict[str, str]:
        """Return what keeps the member from its work, by where: kafka, assignment, sink."""
        waiting = [
            f"partition {partition}: {state.fault}"
            for partition, state in sorted(self._assigned.items())
            if state.fault
        ]
        found = {
            "kafka": self._unreachable or self._kafka.fault,
            "assignment": "; ".join(waiting),
            "sink": self._turn_fault,
        }
        return {where: why for where, why in found.items() if why}

    def failed(self) -> dict[int, str]:
        """Return the partitions whose `acquire` raised Fatal, with its text."""
        return {each: state.fault for each, state in self._assigned.items() if state.failed}

    def run(self) -> None:
        """Work until `stop` is set; then drain, leave the group and stop the sink. Raises Fatal.

        After an error nothing is drained: a state that may be wrong must not be saved.
        """
        try:
            while not self._stop.is_set():
                self.round()
        except BaseException:
            self._finish(drain=False)
            raise
        self._finish(drain=True)
        self._raise_fatal()

    def round(self) -> None:
        """Do one round: acquire, poll, hand over, turn. Raises Fatal."""
        if self._joined or self._join():
            self._acquire_pending()
            self._pause_and_resume()
            self._hand_over(self._poll())
        else:
            self._stop.wait(min(self._poll_s, self._sink.wait_s()))
        self._turn()
        self._watch_kafka()

    def _join(self) -> bool:
        if self._kafka.open_for_s:
            return False
        try:
            self._prepare()
            self._on_joined(self._log.partition_count())
        except Retry as error:
            self._kafka.failed(str(error))
            return False
        self._kafka.worked()
        self._log.subscribe(self)
        self._joined = True
        return True

    # The group's callbacks, from inside `poll` and `close`.

    def on_assign(self, partitions: Sequence[int]) -> None:
        """See `Listener`."""
        log.info("assigned", partitions=list(partitions))
        for partition in partitions:
            self._assigned[partition] = _Assigned(Backoff(clock=self._clock))

    def on_revoke(self, partitions: Sequence[int]) -> None:
        """See `Listener`."""
        log.info("revoked", partitions=list(partitions))
        self._drop(partitions, drain=True)

    def on_lost(self, partitions: Sequence[int]) -> None:
        """See `Listener`."""
        log.warning("lost", partitions=list(partitions))
        self._drop(partitions, drain=False)

    def _drop(self, partitions: Sequence[int], *, drain: bool) -> None:
        for partition in partitions:
            state = self._assigned.pop(partition, None)
            if state is not None:
                self._release(partition, state, drain=drain)

    def _release(self, partition: int, state: _Assigned, *, drain: bool) -> None:
        due = state.acquiring
        state.acquiring = state.reading = state.paused = False
        state.begin_at = None
        if not due:
            return
        try:
            self._sink.release(partition, drain=drain)
        except (Retry, Fenced) as error:
            # Nothing is lost: the next owner continues from what was saved before.
            log.warning("released_undrained", partition=partition, error=str(error))
        except Fatal as error:
            self._fatal = error

    # Taking partitions.

    def _acquire_pending(self) -> None:
        for partition, state in list(self._assigned.items()):
            if not state.reading and not state.backoff.left_s:
                self._acquire(partition, state)

    def _acquire(self, partition: int, state: _Assigned) -> None:
        try:
            if state.begin_at is None:
                state.acquiring = True
                state.begin_at = self._sink.acquire(partition)
                if state.begin_at is None:
                    return
            self._log.begin(partition, state.begin_at)
        except Retry as error:
            # The group may still be rebalancing.
            self._postpone(partition, state, error)
        except Fenced as error:
            # Whether the partition is still this member's is for the group to say, in a later poll.
            self._postpone(partition, state, error)
            self._release(partition, state, drain=False)
        except Fatal as error:
            self._postpone(partition, state, error)
            self._release(partition, state, drain=False)
            if all(each.failed for each in self._assigned.values()):
                raise
        else:
            log.info("acquired", partition=partition, offset=state.begin_at)
            state.begin_at, state.fault, state.failed = None, "", False
            state.reading, state.reading_since = True, self._clock()

    def _postpone(self, partition: int, state: _Assigned, error: SwapsError) -> None:
        state.failed = isinstance(error, Fatal)
        first_s, longest_s = (1.0, _FAILED_PAUSE_S) if state.failed else (0.1, _LONGEST_PAUSE_S)
        state.backoff.hold(state.backoff.pause_s(first_s, longest_s))
        if str(error) != state.fault:
            report = log.error if state.failed else log.warning
            report("not_acquired", partition=partition, error=str(error))
        state.fault = str(error)

    def _acquire_again(self, partitions: Iterable[int], why: str, *, drain: bool = False) -> None:
        """Release partitions that stay assigned, and acquire them after a pause.

        The pause grows while a partition does not stay for long, so that one that is fenced each
        time does not use up epochs.
        """
        for partition in partitions:
            state = self._assigned.get(partition)
            if state is None or not state.acquiring:
                continue
            log.warning("released", partition=partition, reason=why)
            if state.reading and self._clock() - state.reading_since >= STEADY_S:
                state.backoff.reset()
            self._log.pause([partition])
            self._release(partition, state, drain=drain)
            state.fault = why
            state.backoff.start()

    # Reading.

    def _pause_and_resume(self) -> None:
        for partition, state in self._assigned.items():
            if state.reading and state.paused == self._sink.ready(partition):
                state.paused = not state.paused
                change = self._log.pause if state.paused else self._log.resume
                change([partition])

    def _poll(self) -> Polled:
        wait_s = max(0.0, min(self._poll_s, self._sink.wait_s()))
        if self._kafka.open_for_s:
            self._stop.wait(min(self._poll_s, self._kafka.open_for_s))
            return _NOTHING
        try:
            polled = self._log.poll(self._batch_size, wait_s)
        except Retry as error:
            self._kafka.failed(str(error))
            polled = _NOTHING
        else:
            if self._kafka.fault:
                self._kafka.worked()
        self._raise_fatal()
        return polled

    def _hand_over(self, polled: Polled) -> None:
        for records in polled.records:
            self._call(records.partition, self._take, records)
        for partition, end in polled.ends.items():
            self._call(partition, self._sink.reached, partition, end)
        # What was read so far is right: with it saved, the gap that follows begins where it does.
        self._acquire_again(
            polled.out_of_range, "its next offset is no longer in the log", drain=True
        )
        self._raise_fatal()

    def _take(self, records: Records) -> None:
        self._sink.take(records)

    def _call(self, partition: int, call: Callable[..., None], *arguments: object) -> None:
        state = self._assigned.get(partition)
        if state is None or not state.reading:
            return
        try:
            call(*arguments)
        except (Retry, Fenced) as error:
            self._acquire_again([partition], str(error))

    def _turn(self) -> None:
        try:
            self._sink.turn()
        except Release as error:
            self._acquire_again(error.partitions, error.reason)
        except Fenced as error:
            self._acquire_again(list(self._assigned), str(error))
        except Retry as error:
            if not self._turn_fault:
                log.warning("turn_retried", error=str(error))
            self._turn_fault = str(error)
            return
        self._turn_fault = ""
        self._raise_fatal()

    def _raise_fatal(self) -> None:
        if self._fatal is not None:
            raise self._fatal

    def _watch_kafka(self) -> None:
        """Ask the broker on a thread whether it can be reached, where the client says it cannot."""
        if self._asking is not None:
            if not self._asking.done():
                return
            reachable, self._asking = self._asking.result(), None
            self._unreachable = "" if reachable else self._log.unreachable
            if not reachable:
                self._ask_again.start()
        if not self._log.unreachable:
            if self._unreachable:
                log.info("recovered", engine="kafka")
            self._unreachable = ""
            self._ask_again.reset()
        elif not self._ask_again.left_s:
            self._asking = self._pool.submit(self._log.still_reachable)
        if self._joined:
            up = not self._unreachable and not self._kafka.fault
            metrics.DEPENDENCY_UP.labels("kafka").set(up)

    def _finish(self, *, drain: bool) -> None:
        # In this order: what drains may commit, and no thread of the sink meets a closed client.
        try:
            self._drop(list(self._assigned), drain=drain)
            self._sink.stop()
        finally:
            self._pool.shutdown(wait=True)
            self._log.close()
