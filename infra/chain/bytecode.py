"""EVM code of contracts that no compiler made: tokens with hostile metadata, a forger of events.

The opcodes are those of the yellow paper (evm.codes). A contract dispatches on the selector as
compiled ones do; what it does not answer goes to a fallback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from infra.chain.contracts import selector

_MSTORE: Final = "52"
_RETURN_0: Final = "5f f3"
_COPY_CALLDATA: Final = "36 5f 5f 37"
_ENTRY_BYTES: Final = 11
_CREATION_BYTES: Final = 13

REVERT: Final = None
"""The answer of a function that reverts."""

Answers = Mapping[str, bytes | None]
"""What functions return, by signature: bytes, b"" for nothing at all, or REVERT."""


def mask(answers: Answers, implementation: str) -> str:
    """Return the creation code of a contract that answers some functions on its own.

    Every other call runs the code of `implementation` on this contract's own storage.
    """
    forward = (
        f"{_COPY_CALLDATA} 5f 5f 36 5f 73 {implementation.removeprefix('0x')} 5a f4"
        " 3d 5f 5f 3e"  # copy what it returned
    )
    return _creation(_dispatch(answers, _code(forward), returns=True))


def forger(answers: Answers, event: str) -> str:
    """Return the creation code of a contract that emits its calldata as a log's data.

    Topic 0 is `event`; topics 1 and 2 are the caller.
    """
    emit = f"{_COPY_CALLDATA} 33 33 7f {event.removeprefix('0x')} 36 5f a3 00"
    return _creation(_dispatch(answers, _code(emit), returns=False))


def _dispatch(answers: Answers, fallback: bytes, *, returns: bool) -> bytes:
    start = _code("5f 35 60 e0 1c")
    if returns:
        success = len(start) + _ENTRY_BYTES * len(answers) + len(fallback) + 7
        fallback += _code(f"61 {success:04x} 57 3d 5f fd 5b 3d {_RETURN_0}")
    place = len(start) + _ENTRY_BYTES * len(answers) + len(fallback)
    entries, bodies = b"", b""
    for signature, answer in answers.items():
        entries += _code(f"80 63 {selector(signature).hex()} 14 61 {place + len(bodies):04x} 57")
        bodies += _answer(answer)
    return start + entries + fallback + bodies


def _answer(answer: bytes | None) -> bytes:
    if answer is None:
        return _code("5b 5f 5f fd")
    body = b"\x5b"
    for place in range(0, len(answer), 32):
        word = answer[place : place + 32].ljust(32, b"\0")
        body += b"\x7f" + word + _code(f"61 {place:04x} {_MSTORE}")
    return body + _code(f"61 {len(answer):04x} {_RETURN_0}")


def _creation(runtime: bytes) -> str:
    size = f"{len(runtime):04x}"
    copy = _code(f"61 {size} 61 {_CREATION_BYTES:04x} 5f 39 61 {size} {_RETURN_0}")
    assert len(copy) == _CREATION_BYTES
    return "0x" + (copy + runtime).hex()


def _code(text: str) -> bytes:
    return bytes.fromhex(text)
