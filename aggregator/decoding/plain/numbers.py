"""Turns the spans of plain events into numbers: times, amounts and prices, compiled.

A decimal is digits with at most one point between them. What is read here is exactly what
`decode.decode_swap` makes of it; what is out of the ordinary is left to that. Pure.
"""

from __future__ import annotations

from math import ldexp
from typing import Any, Final

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.decoding.plain.scan import (
    ABSENT,
    AMOUNT,
    AMOUNT_USD,
    BLOCK_NUMBER,
    LOG_INDEX,
    PRICE_USD,
    REMOVED,
    SIDE,
    TIMESTAMP,
)
from aggregator.runtime.compiled import compiled

_ZERO: Final = ord("0")
_POINT: Final = ord(".")
_T: Final = ord("t")
_BUY: Final = np.frombuffer(b"buy", np.uint8)
_SELL: Final = np.frombuffer(b"sell", np.uint8)

_NO_USD: Final = -1
_WHOLE_DIGITS: Final = 18
_MOST_DIGITS: Final = 48
_AMOUNT_DIGITS: Final = 29
_USD_DIGITS: Final = 12
_AMOUNT_PLACES: Final = 18
_USD_PLACES: Final = 6
_LIMB: Final = 10**18
_POWERS: Final = np.array([10**n for n in range(19)], np.int64)

_MANTISSA_DIGITS: Final = 19
_MANTISSA_BITS: Final = 52


def _power_of_five(exponent: int) -> int:
    """The first 128 bits of 5^exponent, rounded down; of 5^-n rounded up."""
    power = 5 ** abs(exponent)
    if exponent < 0:
        bits = power.bit_length()
        power = 2 ** (bits + 127 if exponent >= -27 else 2 * bits + 128) // power + 1
    shift = 128 - power.bit_length()
    return power << shift if shift >= 0 else power >> -shift


_FIVES: Final = [_power_of_five(n) for n in range(-_MOST_DIGITS, _MOST_DIGITS + 1)]
_FIVES_HIGH: Final = np.array([five >> 64 for five in _FIVES], np.uint64)
_FIVES_LOW: Final = np.array([five & (2**64 - 1) for five in _FIVES], np.uint64)


@compiled
def fill_values(
    data: Array,
    spans: Array,
    latest: Array,
    swaps: Array,
    removed: Array,
    plain: Array,
) -> None:
    """Fill the numbers of the plain events into `swaps` (SWAP) and `removed`.

    `latest` [event] is the last timestamp, ms, that is not too far ahead. `plain` becomes false
    where a value is out of the ordinary.
    """
    for i in range(len(plain)):
        if plain[i]:
            removed[i] = spans[i, REMOVED, 0] != ABSENT and data[spans[i, REMOVED, 0]] == _T
            plain[i] = _fill_side_and_time(data, spans[i], swaps[i], latest[i]) and _fill_amounts(
                data, spans[i], swaps[i]
            )


@compiled
def fill_wholes(
    data: Array, spans: Array, plain: Array, log_indexes: Array, block_numbers: Array
) -> None:
    """Fill the whole numbers that no window asks for; ABSENT is a block's that is not there."""
    for i in range(len(plain)):
        if plain[i]:
            log_indexes[i] = _whole(data, spans[i, LOG_INDEX, 0], spans[i, LOG_INDEX, 1])
            block_numbers[i] = ABSENT
            if spans[i, BLOCK_NUMBER, 0] != ABSENT:
                begin, end = spans[i, BLOCK_NUMBER, 0], spans[i, BLOCK_NUMBER, 1]
                block_numbers[i] = _whole(data, begin, end)


@compiled
def _fill_side_and_time(data: Array, spans: Array, swap: Any, latest: int) -> bool:
    buy = _is(data, spans[SIDE], _BUY)
    swap.buy = buy
    if not buy and not _is(data, spans[SIDE], _SELL):
        return False
    for field in (TIMESTAMP, LOG_INDEX, BLOCK_NUMBER):
        if spans[field, 1] - spans[field, 0] > _WHOLE_DIGITS:
            return False
    swap.timestamp = _whole(data, spans[TIMESTAMP, 0], spans[TIMESTAMP, 1])
    return swap.timestamp <= latest


@compiled
def _fill_amounts(data: Array, spans: Array, swap: Any) -> bool:
    end = spans[AMOUNT, 1]
    begin, point = _decimal(data, spans[AMOUNT, 0], end)
    if point == ABSENT or point - begin > _AMOUNT_DIGITS:
        return False
    middle = max(begin, point - _WHOLE_DIGITS)
    swap.amount_high = _whole(data, begin, middle)
    swap.amount_mid = _whole(data, middle, point)
    swap.amount_low = _fraction(data, point, end, _AMOUNT_PLACES)
    swap.amount_low += _rounds_up(data, point, end, _AMOUNT_PLACES, swap.amount_low)
    if swap.amount_low == _LIMB or swap.amount_low + swap.amount_mid + swap.amount_high == 0:
        return False
    swap.usd, swap.price = _NO_USD, np.nan
    usd_sure, usd = True, 0.0
    if spans[AMOUNT_USD, 0] != ABSENT:
        usd_end = spans[AMOUNT_USD, 1]
        usd_begin, usd_point = _decimal(data, spans[AMOUNT_USD, 0], usd_end)
        if usd_point == ABSENT or usd_point - usd_begin > _USD_DIGITS:
            return False
        micros = _whole(data, usd_begin, usd_point) * _POWERS[_USD_PLACES]
        micros += _fraction(data, usd_point, usd_end, _USD_PLACES)
        swap.usd = micros + _rounds_up(data, usd_point, usd_end, _USD_PLACES, micros)
        usd_sure, usd = _float(data, usd_begin, usd_end)
    return _fill_price(data, spans, swap, usd_sure, usd, begin, end)


@compiled
def _fill_price(
    data: Array, spans: Array, swap: Any, usd_sure: bool, usd: float, begin: int, end: int
) -> bool:
    """The price that is given, or USD per token."""
    if spans[PRICE_USD, 0] != ABSENT:
        price_begin, point = _decimal(data, spans[PRICE_USD, 0], spans[PRICE_USD, 1])
        if point == ABSENT:
            return False
        sure, swap.price = _float(data, price_begin, spans[PRICE_USD, 1])
        return sure and swap.price > 0
    if usd > 0:
        sure, amount = _float(data, begin, end)
        swap.price = usd / amount
        return sure and usd_sure
    return True


@compiled
def _is(data: Array, span: Array, word: Array) -> bool:
    if span[1] - span[0] != len(word):
        return False
    for place in range(len(word)):
        if data[span[0] + place] != word[place]:
            return False
    return True


@compiled
def _whole(data: Array, begin: int, end: int) -> int:
    """The number of at most 18 digits."""
    number = np.int64(0)
    for at in range(begin, end):
        number = number * 10 + (data[at] - _ZERO)
    return number


@compiled
def _decimal(data: Array, begin: int, end: int) -> tuple[int, int]:
    """(where its first digit above 0 stands, or the point; where the point stands, or the end).

    (…, ABSENT) where it is not plain: digits before and, if there is a point, behind it.
    """
    if end - begin > _MOST_DIGITS or begin == end:
        return begin, ABSENT
    point = end
    for at in range(begin, end):
        if np.uint8(data[at] - _ZERO) > 9:
            if data[at] != _POINT or point != end or at == begin or at == end - 1:
                return begin, ABSENT
            point = at
    while begin < point and data[begin] == _ZERO:
        begin += 1
    return begin, point


@compiled
def _fraction(data: Array, point: int, end: int, places: int) -> int:
    """The digits behind the point in units of 10^-places, the rest cut off."""
    stop = min(end, point + 1 + places)
    if stop <= point + 1:
        return 0
    return _whole(data, point + 1, stop) * _POWERS[places - (stop - point - 1)]


@compiled
def _rounds_up(data: Array, point: int, end: int, places: int, number: int) -> int:
    """1 where the digits behind the last place round `number` up, half to even; else 0."""
    rest = point + 1 + places
    if rest >= end:
        return 0
    first = data[rest] - _ZERO
    if first != 5:
        return 1 if first > 5 else 0
    for at in range(rest + 1, end):
        if data[at] != _ZERO:
            return 1
    return number & 1


@compiled
def _float(data: Array, begin: int, end: int) -> tuple[bool, float]:
    """(sure, the float nearest to a decimal); what is not sure lies between two floats."""
    mantissa = np.uint64(0)
    digits = exponent = 0
    behind = more = False
    for at in range(begin, end):
        if data[at] == _POINT:
            behind = True
            continue
        digit = np.uint64(data[at] - _ZERO)
        if digits < _MANTISSA_DIGITS:
            mantissa = mantissa * np.uint64(10) + digit
            digits += mantissa != 0
            exponent -= behind
        else:
            more |= digit != 0
            exponent += not behind
    nearest = _nearest(mantissa, exponent)
    return not more or nearest == _nearest(mantissa + np.uint64(1), exponent), nearest


@compiled
def _product(one: int, other: int) -> tuple[int, int]:
    """(high, low) of the 128-bit product of two 64-bit numbers."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    low = (one & mask) * (other & mask)
    left = (one >> half) * (other & mask)
    right = (one & mask) * (other >> half)
    middle = (low >> half) + (left & mask) + (right & mask)
    high = (one >> half) * (other >> half) + (left >> half) + (right >> half) + (middle >> half)
    return high, one * other


@compiled
def _nearest(mantissa: int, exponent: int) -> float:
    """The float nearest to mantissa * 10^exponent, half to even; |exponent| <= _MOST_DIGITS.

    The method of Eisel and Lemire (D. Lemire, Number Parsing at a Gigabyte per Second, 2021),
    without its cases of the smallest and largest floats, which these exponents do not reach.
    """
    if mantissa == np.uint64(0):
        return 0.0
    zeros = 0
    for step in (32, 16, 8, 4, 2, 1):
        if mantissa >> np.uint64(64 - step) == np.uint64(0):
            mantissa = mantissa << np.uint64(step)
            zeros += step
    high, low = _product(mantissa, _FIVES_HIGH[exponent + _MOST_DIGITS])
    if high & np.uint64(0x1FF) == np.uint64(0x1FF):
        carry, _ = _product(mantissa, _FIVES_LOW[exponent + _MOST_DIGITS])
        low = low + carry
        if low < carry:
            high = high + np.uint64(1)
    top = high >> np.uint64(63)
    shift = top + np.uint64(64 - _MANTISSA_BITS - 3)
    bits = high >> shift
    if (
        low <= np.uint64(1)
        and -4 <= exponent <= 23
        and bits & np.uint64(3) == np.uint64(1)
        and bits << shift == high
    ):
        bits = bits & ~np.uint64(1)
    bits = (bits + (bits & np.uint64(1))) >> np.uint64(1)
    power = ((217706 * exponent) >> 16) + 63 + np.int64(top) - zeros - _MANTISSA_BITS
    return ldexp(np.float64(bits), power)
