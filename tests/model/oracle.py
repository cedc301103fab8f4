"""What the logs alone say the windows, the archive and the readers must show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from tests.model import aggregator, archiver
from tests.model.rules import AHEAD, GRACE, MAX_FUTURE, MINUTE, NEVER, TTL, WINDOW, Record
from tests.model.world import ModelWorld

Key = tuple[int, int]
Place = tuple[int, int]


class Step(NamedTuple):
    """A record at its home."""

    kind: str
    block: str | None
    place: Place
    late: bool


class Effect(NamedTuple):
    """What a row or a change of a minute adds."""

    minute: int
    value: int
    sign: int
    partition: int
    offset: int


def right(sequence: list[Step]) -> tuple[Place | None, Place | None]:
    """Return the places of the record that counts in the end, and of the one in the windows."""
    stands: Place | None = None
    shown: Place | None = None
    block: str | None = None
    # The block of a removal that came before its add.
    owed: tuple[str | None] | None = None
    for kind, in_block, place, late in sequence:
        if kind == "E":
            if stands is not None:
                if block and in_block and block != in_block:
                    block = in_block
                    if shown is None and not late:
                        shown = place
            elif owed and not (owed[0] and in_block and owed[0] != in_block):
                owed = None
            else:
                stands, shown, block, owed = place, None if late else place, in_block, None
        elif stands is not None:
            if not (block and in_block) or block == in_block:
                stands = shown = None
        elif kind == "R" and place == sequence[0].place:
            owed = (in_block,)
    return stands, shown


def slow(sequence: list[Step], clock: dict[Place, int]) -> bool:
    """Return whether an id changed more than TTL after it had changed: it was forgotten."""
    sequence = _without_ignored(sequence)
    runs = [at for at in range(len(sequence)) if not at or sequence[at][:2] != sequence[at - 1][:2]]
    clocks = [clock[step.place] for step in sequence]
    steps = [clocks[after] - clocks[before] for before, after in pairwise(runs)]
    tails = [
        clocks[at] - clocks[max(run for run in runs if run <= at)]
        for at, step in enumerate(sequence)
        if step.kind == "R"
    ]
    return max(steps + tails, default=0) > TTL


def _without_ignored(sequence: list[Step]) -> list[Step]:
    """Leave out removals of another block than that of the add before: they renew no id."""
    found: list[Step] = []
    block: str | None = None
    for step in sequence:
        if step.kind == "E":
            block = step.block
        elif block and step.block and block != step.block:
            continue
        found.append(step)
    return found


def net(effects: Iterable[Effect]) -> dict[tuple[int, int], int]:
    """Return the sum of each (minute, value) that is not zero."""
    sums: Counter[tuple[int, int]] = Counter()
    for effect in effects:
        sums[effect.minute, effect.value] += effect.sign
    return {key: total for key, total in sums.items() if total}


class Oracle:
    """Checks a drained world; `bad` lists the violations by name."""

    def __init__(self, world: ModelWorld) -> None:
        self.bad: list[str] = []
        self._world, self._kafka = world, world.kafka
        self._sequences: dict[Key, list[Step]] = defaultdict(list)
        self._clock: dict[Place, int] = {}
        self._last_clock = [NEVER] * world.partitions
        self._forwarded: set[tuple[Place, Key]] = set()
        self._touched: dict[Key, set[Place]] = defaultdict(set)
        headers = [world.saved_header(partition) for partition in range(world.partitions)]
        self._minutes = [header["minutes"] for header in headers]
        self._floors = [header["floor"] for header in headers]
        self._approximate = frozenset[Any]().union(*(each["approximate"] for each in headers))

    def check(self) -> list[str]:
        """Return the violations."""
        for partition in range(self._world.partitions):
            self._read_log(partition)
        self._check_forwards()
        windows, archive = self._windows(), self._archive()
        for key in sorted(set(self._touched) | set(windows) | set(archive)):
            before = len(self.bad)
            self._check_id(key, windows[key], archive[key])
            if self.bad[before:]:
                details = ("log", self._sequences[key], "windows", windows[key])
                self._world.say("BAD", key, self.bad[before:], *details, "archive", archive[key])
        self._check_gaps_and_readers()
        return self.bad

    def _home(self, token: int) -> int:
        return token % self._world.homes

    def _read_log(self, partition: int) -> None:
        forwards = set()
        clock = NEVER
        for offset, record in enumerate(self._kafka.log[partition]):
            clock = max(clock, record.timestamp)
            place = (partition, offset)
            self._clock[place] = clock
            late = record.event_time < clock - GRACE
            key = (record.base, record.token)
            future = record.event_time > record.timestamp + MAX_FUTURE
            if future and record.kind == "E" and not record.origin:
                continue
            self._touched[key].add(place)
            if record.origin:
                self._forwarded.add((record.origin, key))
            if self._home(record.token) != partition or record.origin in forwards:
                continue
            if record.origin:
                forwards.add(record.origin)
            self._sequences[key].append(Step(record.kind, record.block, place, late))
            on_time = record.event_time >= record.born - GRACE + AHEAD
            if record.kind == "E" and not record.origin and late and on_time:
                self.bad.append("wrongly late")
        self._last_clock[partition] = clock

    def _gapped(self, key: Key, *groups: str) -> bool:
        """Return whether a record of an id is in a reported gap."""
        return any(
            first <= offset < end
            for partition, offset in self._touched[key]
            for group in groups
            for first, end in self._world.gaps[group, partition]
        )

    def _check_forwards(self) -> None:
        for key, places in self._touched.items():
            for place in places:
                if (
                    self._home(key[1]) != place[0]
                    and (place, key) not in self._forwarded
                    and not self._gapped(key, aggregator.GROUP)
                ):
                    self.bad.append("forward lost")

    def _key(self, identity: Any, place: Place) -> Key:
        if "token" in self._world.rules:
            return identity
        return identity, self._record(place).token

    def _record(self, place: Place) -> Record:
        return self._kafka.log[place[0]][place[1]]

    def _windows(self) -> dict[Key, list[Effect]]:
        found: dict[Key, list[Effect]] = defaultdict(list)
        for partition, minutes in enumerate(self._minutes):
            for minute, changes in minutes.items():
                for identity, sign, value, offset in changes:
                    key = self._key(identity, (partition, offset))
                    found[key].append(Effect(minute, value, sign, partition, offset))
        return found

    def _archive(self) -> dict[Key, list[Effect]]:
        found: dict[Key, list[Effect]] = defaultdict(list)
        for row in self._world.clickhouse.rows:
            if row.letter != archiver.POISON:
                key = self._key(row.identity, (row.partition, row.offset))
                effect = Effect(row.minute, row.value, row.sign, row.partition, row.offset)
                found[key].append(effect)
        return found

    def _put(self, place: Place | None) -> dict[tuple[int, int], int]:
        if not place:
            return {}
        record = self._record(place)
        return {(record.event_time // MINUTE, record.value): 1}

    def _check_id(self, key: Key, windows: list[Effect], archive: list[Effect]) -> None:
        bad, world = self.bad, self._world
        sequence = self._sequences.get(key, [])
        counts, shown = right(sequence)
        home = self._home(key[1])
        adds = [self._put(step.place) for step in sequence if step.kind == "E"]
        # In two blocks: which one counts may depend on TTL, and how often too.
        several = len({step.block for step in sequence}) > 1
        deep = several and slow(sequence, self._clock)
        # The oldest minute that a window still shows.
        oldest = (self._last_clock[home] - WINDOW) // MINUTE + 1
        in_windows = net(effect for effect in windows if effect.minute >= oldest)
        in_archive = net(archive)

        # Never twice and never below nothing, whatever was lost.
        if len(archive) != len({effect[3:] for effect in archive}):
            bad.append("archive double")
        if min(in_archive.values(), default=0) < 0:
            bad.append("archive negative")
        if sum(in_archive.values()) > 1 and not deep:
            bad.append("archive twice")
        if in_archive and in_archive not in adds and not deep:
            bad.append("archive value")
        exact = key not in self._approximate
        if exact:
            self._check_every_moment(windows)
            if in_windows and in_windows not in adds:
                bad.append("window value")

        # Exactly right, where nothing was lost.
        want = self._put(counts)
        whole = key not in world.deleted and not any(
            first == 0 for first, _ in world.gaps[archiver.GROUP, home]
        )
        if whole and not self._gapped(key, archiver.GROUP, aggregator.GROUP):
            either = several and (deep or len(in_archive) == len(want))
            if in_archive != want and not either:
                bad.append("archive lost" if counts and not in_archive else "archive wrong")
        # The clock and the windows never saw what was trimmed.
        blind = bool(world.gaps[aggregator.GROUP, home])
        if not self._gapped(key, aggregator.GROUP) and not blind and exact:
            visible = self._put(shown)
            if visible and min(visible)[0] < oldest:
                visible = {}
            if in_windows != visible and not deep:
                bad.append("window lost" if visible and not in_windows else "window wrong")
            self._check_kept(key, sequence, windows, (in_archive, counts, shown), several)
        # And what the chain says, where the log has its order.
        script, stands = world.truth[key]
        in_order = [step.kind + (step.block or "") for step in sequence] == script.split()
        if in_order and bool(counts) != bool(stands):
            bad.append("not the truth")

    def _check_every_moment(self, windows: list[Effect]) -> None:
        sums: Counter[tuple[int, int]] = Counter()
        for effect in sorted(windows, key=lambda effect: effect[3:]):
            sums[effect.minute, effect.value] += effect.sign
            oldest = (self._clock[effect.partition, effect.offset] - WINDOW) // MINUTE + 1
            if sum(total for (minute, _), total in sums.items() if minute >= oldest) > 1:
                self.bad.append("window twice")
        if min(sums.values(), default=0) < 0:
            self.bad.append("window negative")

    def _check_kept(
        self,
        key: Key,
        sequence: list[Step],
        windows: list[Effect],
        archived: tuple[Any, Place | None, Place | None],
        several: bool,
    ) -> None:
        """Check the minutes that are kept beyond the windows."""
        in_archive, counts, shown = archived
        if sequence:
            clocks = [self._clock[step.place] for step in (sequence[0], sequence[-1])]
            if clocks[1] - clocks[0] > TTL:
                return
        floor = self._floors[self._home(key[1])] // MINUTE + 1
        kept = net(effect for effect in windows if effect.minute >= floor)
        full = self._put(shown)
        if full and min(full)[0] < floor:
            full = {}
        if kept != full and not (several and not full):
            self.bad.append("kept wrong")
        known = key not in self._world.deleted and not self._gapped(key, archiver.GROUP)
        if kept and in_archive and kept == full != in_archive and counts == shown and known:
            self.bad.append("sinks disagree")

    def _check_gaps_and_readers(self) -> None:
        world = self._world
        if "trim" not in world.faults and any(world.gaps.values()):
            self.bad.append("false gap")
        for reader in world.readers:
            if reader.went_back:
                self.bad.append("reader went back")
            saved = self._minutes[reader.partition]
            if _without_empty(reader.minutes) != _without_empty(saved):
                self.bad.append("reader final value")


def _without_empty(minutes: dict[int, Any]) -> dict[int, Any]:
    return {minute: changes for minute, changes in minutes.items() if changes}


def play(
    seed: int,
    rules: frozenset[str],
    faults: list[str],
    swaps: int | None = None,
    trace: bool = False,
) -> list[str]:
    """Play one schedule; return the violations."""
    world = ModelWorld(seed, rules, faults, swaps, trace)
    stuck = world.run()
    return [stuck] if stuck else Oracle(world).check()
