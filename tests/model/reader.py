"""A web node's view of one partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.model.world import ModelWorld


class ModelReader:
    """Takes patches by (epoch, seq), and a full state where one is missing."""

    def __init__(self, world: ModelWorld, partition: int) -> None:
        self.partition = partition
        self.minutes: dict[int, Any] = {}
        self.went_back = 0
        self._world = world
        self._epoch, self._shown = 0, 0
        self._seq: int | None = 0
        self._waiting: dict[int, Any] = {}

    def message(self, patch: tuple[int, int, int, dict[int, Any]]) -> None:
        """Take a patch that arrived."""
        epoch, seq, next_offset, changes = patch
        if "reader" not in self._world.rules:
            if (epoch, seq) > (self._epoch, self._seq):
                self._epoch, self._seq = epoch, seq
                self._show(next_offset, changes)
            return
        if epoch > self._epoch:
            self._epoch, self._seq, self._waiting = epoch, None, {}
        if epoch == self._epoch:
            self._waiting[seq] = patch
        self._drain()

    def poll(self) -> None:
        """Ask for the full state if a patch is missing."""
        if "reader" not in self._world.rules or not (self._seq is None or self._waiting):
            return
        header = self._world.saved_header(self.partition)
        if not header or header["next_offset"] < self._shown:
            return
        newer = header["epoch"] > self._epoch
        if newer or (header["epoch"] == self._epoch and header["seq"] > (self._seq or -1)):
            if newer:
                self._waiting = {}
            self._epoch, self._seq = header["epoch"], header["seq"]
            self._show(header["next_offset"], header["minutes"], reset=True)
            self._drain()

    def _show(self, next_offset: int, changes: dict[int, Any], reset: bool = False) -> None:
        self.went_back += next_offset < self._shown
        self._shown = next_offset
        self.minutes = dict(changes) if reset else {**self.minutes, **changes}

    def _drain(self) -> None:
        while self._seq is not None and self._seq + 1 in self._waiting:
            _, self._seq, next_offset, changes = self._waiting[self._seq + 1]
            self._show(next_offset, changes)
        if self._seq is not None:
            seq = self._seq
            self._waiting = {each: patch for each, patch in self._waiting.items() if each > seq}
