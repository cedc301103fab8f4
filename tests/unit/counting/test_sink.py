"""Counting from end to end in memory: takeovers, saves, what readers see, what is reported."""

from __future__ import annotations

from itertools import count

import pytest

from aggregator.contracts.homes import Homes
from aggregator.contracts.units import DAY_MS
from aggregator.counting.commit_metadata import CommitMetadata, read_metadata
from aggregator.member.sink import Release
from aggregator.runtime.errors import Fatal
from aggregator.seen.words import BLOCK_WORDS
from tests.unit.counting.world import HOUR, MINUTE, SECOND, Readers, World, send

TOKEN = "A"
HOME, AWAY = "murmur2", "crc32"


def committed(world: World, partition: int = 0) -> tuple[int, CommitMetadata]:
    offset, text = world.topic.group("aggregators").committed[partition]
    return offset, read_metadata(text)


def a_world(swaps: int = 5, partitions: int = 1, **settings: str) -> World:
    """Return a world whose first aggregator has counted some swaps of a token."""
    world = World(partitions, **settings)
    world.process()
    for number in range(swaps):
        send(world, number)
    world.run(3 * SECOND)
    return world


def token_at(partition: int, partitions: int, first: int = 0) -> str:
    """Return a token that is at home on this partition."""
    homes = Homes("murmur2", partitions)
    names = (f"T{number}" for number in count(first))
    return next(name for name in names if homes.of(f"ethereum:{name}") == partition)


def test_the_first_epoch_is_committed_saved_and_then_published() -> None:
    world = World()
    process = world.process()
    for number in range(3):
        send(world, number)
    process.loop.round()  # joins
    process.loop.round()  # takes, reads and begins to save
    assert committed(world)[0] == 0
    assert committed(world)[1].epoch == 1
    process.loop.round()
    assert world.readers.rows == {}, "nothing is published before it is saved"
    process.saver.step()
    assert world.server.kept(0).header is not None
    process.loop.round()
    assert world.trades() == 3
    assert committed(world)[0] == 3
    assert world.readers.newest_beats[0].state == "live"
    assert world.readers.newest_beats[0].target_offset == 3


def test_a_killed_owner_is_followed_from_its_last_save() -> None:
    world = a_world()
    (first,) = world.processes
    send(world, 5)
    send(world, 6)
    first.loop.round()  # counted and published, not saved
    first.kill()
    send(world, 6)
    send(world, 7)
    second = world.process()
    world.run(3 * SECOND)
    owner = second.sink.owners[0]
    assert owner.restored
    assert owner.epoch == 2
    assert world.trades() == 8


def test_a_drained_owner_leaves_nothing_to_replay() -> None:
    world = a_world()
    (first,) = world.processes
    send(world, 5)
    first.loop.round()
    first.stop()
    assert committed(world)[0] == 6
    second = world.process()
    world.run(2 * SECOND)
    assert second.sink.owners[0].next_offset == 6
    assert second.sink.owners[0].windows.counts["C"] == 0, "nothing was read again"
    assert world.trades() == 6


def test_while_redis_is_away_the_numbers_stay_fresh_and_it_is_reported() -> None:
    world = a_world()
    world.server.down = True
    for number in range(5, 60):
        send(world, number)
        world.run(SECOND)
    assert world.trades() == 60
    beat = world.readers.newest_beats[0]
    assert beat.state == "live"
    (note,) = beat.degraded
    assert note.startswith("redis: nothing saved for 5")
    (process,) = world.processes
    assert process.health.readiness.ready
    assert process.health.readiness.degraded == [note]
    offset, metadata = committed(world)
    assert offset == 5
    world.server.down = False
    world.run(15 * SECOND)
    assert world.readers.newest_beats[0].degraded == []
    assert committed(world) == (60, metadata), "the epoch stays"
    assert world.trades() == 60


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_a_redis_that_lost_saves_gets_the_whole_state(keep: int) -> None:
    """It is emptied, or restored as of an older save, while the owner goes on."""
    world = a_world()
    for number in range(5, 20):
        send(world, number)
        world.run(2 * SECOND)
    world.server.lose(keep)
    send(world, 20)
    world.run(5 * SECOND)
    (first,) = world.processes
    assert first.sink.owners[0].epoch == 1
    assert world.server.kept(0).epoch == 1
    first.kill()
    second = world.process()
    for number in range(15, 25):
        send(world, number)
    world.run(3 * SECOND)
    assert second.sink.owners[0].restored
    assert world.trades() == 25


def test_an_emptied_redis_gets_the_state_of_a_quiet_partition() -> None:
    world = a_world()
    world.server.lose(0)
    world.run(5 * SECOND)
    world.processes[0].kill()
    second = world.process()
    world.run(3 * SECOND)
    assert second.sink.owners[0].restored
    assert world.trades() == 5


def test_a_lost_answer_of_a_save_changes_nothing() -> None:
    world = a_world()
    world.server.lose_answers = 2
    for number in range(5, 10):
        send(world, number)
        world.run(2 * SECOND)
    world.run(5 * SECOND)
    (first,) = world.processes
    first.kill()
    world.process()
    world.run(3 * SECOND)
    assert world.trades() == 10


def test_a_new_owner_without_redis_waits_and_others_go_on() -> None:
    world = World(2)
    first = world.process()
    tokens = token_at(0, 2), token_at(1, 2)
    for partition, token in enumerate(tokens):
        send(world, partition, partition, token)
    world.run(3 * SECOND)
    world.server.down = True
    second = world.process()
    world.run(20 * SECOND)
    (taken,) = first.sink.owners
    assert second.sink.owners == {}
    send(world, 5, taken, tokens[taken])
    world.run(SECOND)
    assert world.trades(tokens[taken]) == 2
    assert world.readers.newest_beats[taken].state == "live"
    assert any("redis" in each for each in second.health.readiness.reasons)
    world.server.down = False
    world.run(10 * SECOND)
    assert len(second.sink.owners) == 1
    assert second.health.readiness.ready


def test_a_zombie_saves_nothing_and_joins_again() -> None:
    world = a_world()
    (zombie,) = world.processes
    send(world, 5)
    zombie.loop.round()
    zombie.log.expire()
    world.processes.remove(zombie)
    second = world.process()
    world.run(3 * SECOND)
    assert second.sink.owners[0].epoch == 2
    with pytest.raises(Release, match="fenced"):
        for _ in range(10):
            world.pass_time(SECOND)
            zombie.saver.step()
            zombie.sink.turn()
    kept = world.server.kept(0)
    assert kept.epoch == 2
    assert committed(world)[1].epoch == 2
    send(world, 6)
    world.processes.append(zombie)
    world.run(5 * SECOND)
    assert world.trades() == 7
    assert zombie.health.readiness.ready


def test_a_takeover_of_a_released_partition_commits_nothing() -> None:
    """The group gave the partition away while the work waited: its epoch must not appear."""
    world = World()
    process = world.process()
    process.executor.held = True
    world.run(SECOND)
    assert process.sink.acquire(0) is None
    process.sink.release(0, drain=False)
    process.executor.release()
    assert 0 not in world.topic.group("aggregators").committed


def test_misplaced_records_count_at_home_even_if_the_owner_dies_before_the_save() -> None:
    world = World(2)
    first = world.process()
    token = token_at(1, 2)
    send(world, 0, 1, token)
    world.run(3 * SECOND)
    for number in range(1, 6):
        send(world, number, 0, token)
    first.loop.round()
    first.outbox.may_send = lambda: False
    first.outbox.poll()
    first.saver.step()
    first.sink.turn()
    assert committed(world, 0)[0] == 0, "an offset is not passed before its forward"
    first.kill()
    second = world.process()
    world.run(3 * SECOND)
    assert world.trades(token) == 6
    assert second.sink.owners[0].misplaced == 5
    second.kill()
    world.process()
    world.run(3 * SECOND)
    assert world.trades(token) == 6
    assert world.server.kept(1).header.seen.origins == {0: 4}  # type: ignore[union-attr]


def test_a_forward_that_was_sent_twice_counts_once() -> None:
    world = World(2)
    first = world.process()
    token = token_at(1, 2)
    world.run(SECOND)
    send(world, 1, 0, token)
    first.outbox.may_acknowledge = lambda: False
    first.loop.round()
    first.loop.round()
    first.kill()
    world.process()
    world.run(3 * SECOND)
    assert len(world.topic.records(1)) >= 2
    assert world.trades(token) == 1


def test_a_forward_that_is_not_at_home_is_a_dead_letter() -> None:
    """Another process has another partitioner: without an end the record would go in circles."""
    world = World(2)
    world.process()
    world.run(SECOND)
    token = token_at(1, 2)
    value = b'{"chain":"ethereum","tx_hash":"0x1","log_index":0,"side":"buy","amount":"1","token":'
    value += b'"%s","timestamp":%d}' % (token.encode(), world.now)
    world.topic.append(0, value, timestamp=world.now, headers=[("origin", b"1:7:0")])
    world.run(3 * SECOND)
    (letter,) = world.letters
    assert letter.error.reason == "partitioner"
    assert world.topic.records(1) == []


def test_records_placed_by_another_partitioner_are_counted_and_reported() -> None:
    world = World(4)
    world.process()
    world.run(SECOND)
    other = Homes("crc32", 4)
    for number in range(4_400):
        token = f"T{number % 60}"
        send(world, number, other.of(f"ethereum:{token}"), token)
    world.run(10 * SECOND)
    assert sum(world.trades(f"T{number}") for number in range(60)) == 4_400
    notes = [note for beat in world.readers.newest_beats.values() for note in beat.degraded]
    assert notes
    assert all("KAFKA_PARTITIONER=crc32 would fit" in note for note in notes)
    assert world.processes[0].health.readiness.ready


def test_a_retraction_takes_out_what_its_swap_put_in() -> None:
    world = a_world(0)
    send(world, 1, amount_usd="30.00", block_hash="0xaa")
    send(world, 2, amount_usd="5.00")
    world.run(SECOND)
    send(
        world,
        1,
        amount_usd="999.00",
        amount="7",
        side="sell",
        at=world.now - 99 * HOUR,
        removed=True,
    )
    world.run(SECOND)
    window = world.readers.rows["ethereum:A"].windows["24h"]
    assert (window.trades, window.volume_usd, window.buys) == (1, "5.000000", 1)


def test_a_swap_that_is_no_longer_in_memory_is_read_back() -> None:
    """While Kafka does not answer, this partition waits and the other goes on."""
    world = World(2)
    first = world.process()
    tokens = token_at(0, 2), token_at(1, 2)
    world.run(SECOND)
    send(world, 1, 0, tokens[0], amount_usd="30.00")
    send(world, 2, 0, tokens[0], amount_usd="5.00")
    world.run(3 * SECOND)
    first.stop()
    second = world.process()
    world.run(3 * SECOND)
    second.executor.held = True
    send(world, 1, 0, tokens[0], amount_usd="7.00", removed=True)
    send(world, 3, 0, tokens[0], amount_usd="1.00")
    send(world, 4, 1, tokens[1])
    world.run(SECOND)
    assert world.trades(tokens[0]) == 2, "later records wait for the one that is read back"
    assert world.trades(tokens[1]) == 1
    second.executor.release()
    world.run(SECOND)
    window = world.readers.rows[f"ethereum:{tokens[0]}"].windows["24h"]
    assert (window.trades, window.volume_usd) == (2, "6.000000")


def test_a_swap_that_the_log_has_lost_is_taken_out_as_its_retraction_says() -> None:
    world = a_world(0)
    send(world, 1, amount_usd="30.00")
    send(world, 2, amount_usd="5.00")
    world.run(3 * SECOND)
    world.processes[0].stop()
    world.topic.trim(0, 1)
    world.process()
    world.run(2 * SECOND)
    send(world, 1, amount_usd="30.00", removed=True)
    world.run(2 * SECOND)
    assert world.trades() == 1


def test_a_swap_that_is_included_again_counts_again() -> None:
    world = a_world(0)
    for kind in ("add", "add", "removal", "removal", "add", "removal", "add", "add"):
        send(world, 1, removed=True if kind == "removal" else None)
    world.run(2 * SECOND)
    assert world.trades() == 1
    quality = world.readers.rows["ethereum:A"].quality
    assert (quality.retracted, quality.duplicates) == (2, 3)


def test_without_a_state_the_windows_are_rebuilt_from_the_log() -> None:
    world = a_world(0)
    for hour in range(60):
        for number in range(3):
            send(world, 10 * hour + number)
        if hour % 10 == 0:
            world.topic.skip(0, BLOCK_WORDS)
        world.pass_time(HOUR)
        world.processes[0].round()
    world.run(3 * SECOND)
    expected = world.readers.rows["ethereum:A"]
    assert expected.windows["24h"].trades == 69
    world.processes[0].stop()
    world.server.lose(0)
    second = world.process()
    send(world, 10 * 59)
    world.run(3 * SECOND)
    owner = second.sink.owners[0]
    assert not owner.restored
    assert owner.seen.floor > 0
    # Twice 24 h and 5 min back, to the beginning of that block of ids: not from the first record.
    assert 0 < owner._first_offset < committed(world)[0]
    row = world.readers.rows["ethereum:A"]
    assert row.windows["24h"].trades == 69
    assert row.windows["24h"].complete
    assert row.epoch == 2
    assert world.readers.newest_beats[0].degraded == []


def test_a_log_that_begins_inside_the_windows_is_reported() -> None:
    world = a_world(3)
    world.processes[0].stop()
    world.server.lose(0)
    world.topic.trim(0, 2)
    world.process()
    world.run(3 * SECOND)
    assert world.owners[0].cut
    assert world.trades() == 1
    row = world.readers.rows["ethereum:A"]
    assert not any(window.complete for window in row.windows.values())
    (note,) = world.readers.newest_beats[0].degraded
    assert "begins inside the longest window" in note
    world.run(6 * MINUTE + 5 * MINUTE, 10 * SECOND)
    assert world.readers.rows["ethereum:A"].windows["5m"].complete


def test_offsets_that_kafka_dropped_unread_are_reported() -> None:
    world = a_world(3)
    world.processes[0].stop()
    for number in range(3, 10):
        send(world, number)
    world.topic.trim(0, 6)
    world.process()
    world.run(3 * SECOND)
    assert world.trades() == 7
    (note,) = world.readers.newest_beats[0].degraded
    assert "offsets 3 to 5" in note
    assert not world.readers.rows["ethereum:A"].windows["24h"].complete


def test_windows_are_complete_from_the_first_record_not_from_the_first_event() -> None:
    world = a_world(0)
    send(world, 0, at=world.now - 50 * DAY_MS)
    send(world, 1)
    world.run(2 * SECOND)
    row = world.readers.rows["ethereum:A"]
    assert not any(window.complete for window in row.windows.values())
    world.run(6 * MINUTE, 10 * SECOND)
    windows = world.readers.rows["ethereum:A"].windows
    assert windows["5m"].complete
    assert not windows["1h"].complete


def test_a_topic_that_was_made_again_stops_the_process_and_says_how_to_begin() -> None:
    """The new log is longer than what was counted, so its length says nothing."""
    world = a_world(3)
    world.processes[0].stop()
    world.topic.make_again()
    for number in range(10):
        send(world, number)
    world.process()
    with pytest.raises(Fatal, match=r"created again.*delete the keys snap:.*restart.*web nodes"):
        world.run(3 * SECOND)
    world.processes[0].kill()
    world.server.lose(0)
    world.readers = Readers()  # the web nodes are restarted
    world.process()
    world.run(3 * SECOND)
    assert world.trades() == 10


def test_a_log_that_ends_before_the_saved_offset_stops_the_process() -> None:
    """A broker without topic ids."""
    world = a_world(0)
    world.topic.topic_id = ""
    world.processes[0].kill()
    world.server.lose(0)
    world.process()
    for number in range(5):
        send(world, number)
    world.run(3 * SECOND)
    world.processes[0].stop()
    world.topic.cut(0, 2)
    world.process()
    world.run(3 * SECOND)
    assert world.processes[0].sink.owners == {}


def test_another_partitioner_than_the_counts_is_refused_with_its_name() -> None:
    world = a_world(3)
    world.processes[0].stop()
    world.process(KAFKA_PARTITIONER="crc32")
    with pytest.raises(Fatal, match="set KAFKA_PARTITIONER=murmur2"):
        world.run(3 * SECOND)


def test_partitions_that_are_added_forward_everything() -> None:
    world = a_world(3)
    world.topic.add_partitions(1)
    world.run(5 * SECOND)
    send(world, 3, 1)
    send(world, 2, 1)
    world.run(5 * SECOND)
    assert world.trades() == 4
    assert committed(world, 1)[1].homes == 1
    assert {beat.partitions for beat in world.readers.newest_beats.values()} == {2}
    world.processes[0].kill()
    world.process()
    world.run(5 * SECOND)
    assert committed(world, 0)[1].homes == 1
    assert world.trades() == 4


def test_the_version_before_is_followed_with_forwards_from_the_start_of_the_rebuild() -> None:
    world = World(2)
    token = token_at(1, 2)
    for number in range(5):
        send(world, number, 0, token)
    for partition in (0, 1):
        world.topic.group("aggregators").committed[partition] = (5 - 5 * partition, '{"epoch":7}')
    first = world.process()
    first.outbox.may_send = lambda: False
    world.run(SECOND)
    assert committed(world)[0] == 0, "a restart before the save must forward them, too"
    first.kill()
    world.process()
    world.run(3 * SECOND)
    assert world.trades(token) == 5
    assert committed(world)[1].epoch == 9


def test_dead_letters_are_sent_once_and_again_only_after_a_crash() -> None:
    world = a_world(2)
    send(world, 2, side="hold")
    world.run(3 * SECOND)
    assert len(world.letters) == 1
    world.server.lose(0)
    world.processes[0].kill()
    world.process()
    world.run(3 * SECOND)
    assert len(world.letters) == 1, "below the committed offset all were acknowledged"
    assert world.trades() == 2


def test_a_run_of_bad_messages_is_reported_and_stops_nothing() -> None:
    world = a_world(1)
    for _ in range(1_500):
        world.topic.append(0, b"garbage")
    send(world, 1)
    world.run(3 * SECOND)
    assert world.trades() == 2
    (note,) = world.readers.newest_beats[0].degraded
    assert "of the last 1,000 messages were refused" in note
    (process,) = world.processes
    assert process.health.readiness.ready
    assert process.health.readiness.degraded == [f"partition 0: {note}"]
    for number in range(2, 1_002):
        send(world, number)
    world.run(3 * SECOND)
    assert world.readers.newest_beats[0].degraded == []


def test_letters_that_kafka_does_not_take_stall_only_when_too_many_wait() -> None:
    world = a_world(1)
    (process,) = world.processes
    process.outbox.may_send = lambda: False
    process.outbox.room = 10
    send(world, 1, side="hold")
    world.run(10 * SECOND)
    send(world, 2)
    world.run(SECOND)
    assert world.trades() == 2
    beat = world.readers.newest_beats[0]
    assert beat.state == "live"
    assert any("not acknowledged for" in note for note in beat.degraded)
    assert committed(world)[0] == 1
    for number in range(20):
        send(world, 10 + number, side="hold")
    world.run(2 * SECOND)
    send(world, 3)
    world.run(10 * SECOND)
    assert world.readers.newest_beats[0].state == "stalled"
    assert not process.health.readiness.ready
    process.outbox.may_send = lambda: True
    world.run(5 * SECOND)
    assert world.trades() == 3
    assert world.readers.newest_beats[0].state == "live"
    assert process.health.readiness.ready


def test_a_record_far_ahead_of_the_own_clock_stops_its_partition_only() -> None:
    world = World(2)
    tokens = token_at(0, 2), token_at(1, 2)
    world.process()
    world.run(SECOND)
    send(world, 1, 0, tokens[0])
    send(world, 2, 0, tokens[0], stamp=world.now + 2 * HOUR)
    send(world, 3, 0, tokens[0])
    send(world, 4, 1, tokens[1])
    world.run(3 * SECOND)
    assert world.trades(tokens[0]) == 1
    assert world.trades(tokens[1]) == 1
    beats = world.readers.newest_beats
    assert (beats[0].state, beats[1].state) == ("stalled", "live")
    assert any("the record at offset 1 is stamped" in note for note in beats[0].degraded)
    assert committed(world)[0] == 1
    world.run(HOUR + MINUTE, 10 * SECOND)
    assert world.trades(tokens[0]) == 3
    assert world.readers.newest_beats[0].state == "live"


def test_kafka_out_of_reach_is_stalled() -> None:
    world = a_world()
    world.topic.reachable = False
    world.run(3 * SECOND)
    assert world.readers.newest_beats[0].state == "stalled"
    assert not world.processes[0].health.readiness.ready


def test_by_event_time_the_windows_end_at_the_newest_event() -> None:
    world = World(CLOCK="event")
    world.process()
    begin = world.now - 500 * DAY_MS
    for number in range(10):
        send(world, number, at=begin + number * MINUTE)
    world.run(3 * SECOND)
    row = world.readers.rows["ethereum:A"]
    assert row.windows["5m"].trades == 5
    assert row.as_of == begin + 9 * MINUTE
    world.processes[0].stop()
    world.server.lose(0)
    world.process()
    world.run(3 * SECOND)
    assert world.readers.rows["ethereum:A"].windows["5m"].trades == 5
