"""The checksum of an Ethereum address (EIP-55): bits of a Keccak-256 hash select upper case.

The service does not need the checksum, because it accepts addresses in any case. hashlib's SHA-3 is
the later standard, which pads differently. Sources: the Keccak reference, section 1.2, and EIP-55.
"""

from __future__ import annotations

from typing import Final

_MASK: Final = (1 << 64) - 1
_RATE: Final = 136


def checksummed(address: str) -> str:
    """Return `address` (0x and 40 hex digits, any case) in its EIP-55 form."""
    digits = address[2:].lower()
    marks = keccak_256(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(mark, 16) >= 8 else digit
        for digit, mark in zip(digits, marks, strict=False)
    )


def keccak_256(data: bytes) -> bytes:
    """Return the hash that Ethereum uses."""
    padded = bytearray(data) + b"\x01" + bytes(-(len(data) + 1) % _RATE)
    padded[-1] |= 0x80
    lanes = [[0] * 5 for _ in range(5)]
    for start in range(0, len(padded), _RATE):
        for index in range(_RATE // 8):
            word = padded[start + 8 * index : start + 8 * index + 8]
            lanes[index % 5][index // 5] ^= int.from_bytes(word, "little")
        _permute(lanes)
    return b"".join(lanes[x][0].to_bytes(8, "little") for x in range(4))


def _permute(lanes: list[list[int]]) -> None:
    """Keccak-f[1600] in place; `lanes[x][y]` are 64-bit words."""
    register = 1
    for _ in range(24):
        # theta
        sums = [a ^ b ^ c ^ d ^ e for a, b, c, d, e in lanes]
        for x in range(5):
            mixed = sums[x - 1] ^ _rotated(sums[(x + 1) % 5], 1)
            for y in range(5):
                lanes[x][y] ^= mixed
        # rho and pi
        x, y, lane = 1, 0, lanes[1][0]
        for step in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            lane, lanes[x][y] = lanes[x][y], _rotated(lane, (step + 1) * (step + 2) // 2)
        # chi
        for y in range(5):
            row = [lanes[x][y] for x in range(5)]
            for x in range(5):
                lanes[x][y] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5])
        # iota
        for bit in range(7):
            if register & 1:
                lanes[0][0] ^= 1 << ((1 << bit) - 1)
            register = (register << 1) ^ (0x171 if register & 0x80 else 0)


def _rotated(word: int, by: int) -> int:
    by %= 64
    return ((word << by) | (word >> (64 - by))) & _MASK
