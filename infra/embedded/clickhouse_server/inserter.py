"""An INSERT whose blocks go to the engine through a pipe while the client is still sending.

The engine's own call for this, `send_insert`, reports success even if a constraint, a view or a
limit stopped the insert. INSERT FROM INFILE of the pipe raises the error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from typing import Any, Final

from infra.embedded.clickhouse_server.blocks import WireBlock
from infra.embedded.clickhouse_server.errors import ServerError, from_engine
from infra.embedded.clickhouse_server.sql import Insert

_PIPE_BYTES: Final = 1 << 20
# the start of a block that breaks off: without it the engine would take the end of the pipe for the
# end of the rows
_ABORT: Final = b"\1"


class Inserter:
    """Call `append` for each block, then `finish` or `cancel`; each raises the insert's error.

    Memory does not grow with the insert: `append` blocks while the pipe is full.
    """

    def __init__(self, connection: Any, statement: Insert) -> None:
        self._connection = connection
        self._read_end, self._write_end = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(self._write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        rows = f"FROM INFILE '/dev/fd/{self._read_end}' {statement.settings} FORMAT Native"
        self._failed: ServerError | None = None
        self._written = (0, 0)
        self._engine = threading.Thread(
            target=self._run, args=(f"{statement.head} {rows}",), name="insert", daemon=True
        )
        self._engine.start()

    def _run(self, query: str) -> None:
        try:
            result = self._connection.query(query, "Native")
            self._written = (result.rows_written(), result.bytes_written())
        except RuntimeError as error:
            self._failed = from_engine(error)
        finally:
            os.close(self._read_end)  # a blocked `append` gets a broken pipe

    def append(self, block: WireBlock) -> None:
        """Hand a block to the engine."""
        rest = memoryview(block.for_engine())
        try:
            while rest:
                rest = rest[os.write(self._write_end, rest) :]
        except BrokenPipeError:
            self.finish()
            raise

    def finish(self) -> tuple[int, int]:
        """Wait until the rows are written; return the rows and bytes written, views included."""
        self._end()
        if self._failed is not None:
            raise self._failed
        return self._written

    def cancel(self) -> None:
        """Make the engine drop what it has not written yet, and wait for it."""
        if self._write_end >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._write_end, _ABORT)
        self._end()

    def _end(self) -> None:
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1
        self._engine.join()
