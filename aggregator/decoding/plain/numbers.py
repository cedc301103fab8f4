"""Converts the spans of plain events to numbers: times, amounts and prices, compiled.

A decimal is digits with at most one point between them. Every result equals that of
`rules.decode_swap`. A value that is outside the limits below, or breaks a rule, makes the event not
plain: `decode_swap` then decodes it, or rejects it with a reason. Pure.
"""

from __future__ import annotations

from math import ldexp
from typing import Any, Final

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.event import EARLIEST_MS
from aggregator.contracts.swaps import ABSENT, UNPRICED
from aggregator.decoding.plain.scan import (
    AMOUNT,
    AMOUNT_USD,
    BLOCK_NUMBER,
    LEG,
    LOG_INDEX,
    PRICE_USD,
    REMOVED,
    RESERVE_QUOTE,
    RESERVE_TOKEN,
    SIDE,
    TIMESTAMP,
)
from aggregator.runtime.compiled import compiled

_ZERO: Final = ord("0")
_POINT: Final = ord(".")
_QUOTE: Final = ord('"')
_T: Final = ord("t")
_BUY: Final = np.frombuffer(b"buy", np.uint8)
_SELL: Final = np.frombuffer(b"sell", np.uint8)
_Z: Final = np.frombuffer(b"Z", np.uint8)
_UTC: Final = np.frombuffer(b"+00:00", np.uint8)

# The longest whole number that cannot overflow int64.
_WHOLE_DIGITS: Final = 18
# The longest decimal in bytes; bounds the exponents that `_nearest` needs powers of five for.
_MOST_DIGITS: Final = 48
# Digits before the point. An amount below 10^29 is below the limit of the rules (10^30), and USD
# below 10^12 fits int64 in micro-USD with room for rounding; larger values are for the rules.
_AMOUNT_DIGITS: Final = 29
_USD_DIGITS: Final = 12
_AMOUNT_PLACES: Final = 18
_USD_PLACES: Final = 6
_LIMB: Final = 10**18
_POWERS: Final = np.array([10**n for n in range(19)], np.int64)

# Every number of 19 digits fits 64 bits.
_MANTISSA_DIGITS: Final = 19
_MANTISSA_BITS: Final = 52

# "YYYY-MM-DDTHH:MM:SS"; "0" stands for a digit.
_ISO: Final = np.frombuffer(b"0000-00-00T00:00:00", np.uint8)
_ISO_FRACTION: Final = 6
_EPOCH_YEAR: Final = 1970
# Leap days before 1970 in the proleptic Gregorian calendar.
_LEAP_DAYS: Final = 1969 // 4 - 1969 // 100 + 1969 // 400
_DAYS_BEFORE_MONTH: Final = np.array(
    [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365], np.int64
)


def _power_of_five(exponent: int) -> int:
    """Return the first 128 bits of 5^exponent, rounded down; rounded up for a negative exponent.

    This is the table of the method of `_nearest`, with its rounding.
    """
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
    records: Array,
    plain: Array,
) -> None:
    """Fill the numbers of the plain events into `swaps` (SWAP) and `records` (RECORD).

    `latest` [event] is the last timestamp, ms, that is not too far ahead. Clears `plain` where the
    rules must decide.
    """
    for i in range(len(plain)):
        if plain[i]:
            removed = spans[i, REMOVED, 0] != ABSENT and data[spans[i, REMOVED, 0]] == _T
            records[i].removed = removed
            plain[i] = (
                _fill_side_and_time(data, spans[i], swaps[i], latest[i], removed)
                and _fill_wholes(data, spans[i], swaps[i], records[i])
                and _fill_amounts(data, spans[i], swaps[i])
                and _fill_reserves(data, spans[i], records[i])
            )


@compiled
def _fill_side_and_time(data: Array, spans: Array, swap: Any, latest: int, removed: bool) -> bool:
    buy = _is_word(data, spans[SIDE, 0], spans[SIDE, 1], _BUY)
    swap.buy = buy
    if not buy and not _is_word(data, spans[SIDE, 0], spans[SIDE, 1], _SELL):
        return False
    begin, end = spans[TIMESTAMP, 0], spans[TIMESTAMP, 1]
    # The span of a text excludes its quotes: the byte before it is a quote.
    if data[begin - 1] == _QUOTE:
        timestamp = _utc_ms(data, begin, end)
    elif end - begin <= _WHOLE_DIGITS:
        timestamp = _whole(data, begin, end)
    else:
        return False
    # No retraction is too late for its record: see `rules`.
    swap.timestamp = min(timestamp, latest) if removed else timestamp
    return timestamp >= EARLIEST_MS and (removed or timestamp <= latest)


@compiled
def _fill_wholes(data: Array, spans: Array, swap: Any, record: Any) -> bool:
    for field in (LOG_INDEX, BLOCK_NUMBER):
        if spans[field, 1] - spans[field, 0] > _WHOLE_DIGITS:
            return False
    swap.log_index = _whole(data, spans[LOG_INDEX, 0], spans[LOG_INDEX, 1])
    swap.block_number = ABSENT
    if spans[BLOCK_NUMBER, 0] != ABSENT:
        swap.block_number = _whole(data, spans[BLOCK_NUMBER, 0], spans[BLOCK_NUMBER, 1])
    record.leg = 0
    if spans[LEG, 0] != ABSENT:
        record.leg = data[spans[LEG, 0]] - _ZERO
        return spans[LEG, 1] - spans[LEG, 0] == 1 and record.leg <= 1
    return True


@compiled
def _fill_reserves(data: Array, spans: Array, record: Any) -> bool:
    token_sure, record.reserve_token = _reserve(data, spans[RESERVE_TOKEN])
    quote_sure, record.reserve_quote = _reserve(data, spans[RESERVE_QUOTE])
    return token_sure and quote_sure


@compiled
def _reserve(data: Array, span: Array) -> tuple[bool, float]:
    """Return (certain, the float nearest to a reserve); NaN where it is absent."""
    if span[0] == ABSENT:
        return True, np.nan
    begin, point = _decimal(data, span[0], span[1])
    return (False, np.nan) if point == ABSENT else _float(data, begin, span[1])


@compiled
def _utc_ms(data: Array, begin: int, end: int) -> int:
    """Return ms since the epoch of `YYYY-MM-DDTHH:MM:SS[.f]Z`, or of the same with +00:00.

    Returns ABSENT for any other text; ISO 8601 has more forms, which the rules read. The fraction
    has at most 6 digits, of which those below a ms are cut off.
    """
    seconds_end = begin + len(_ISO)
    if end <= seconds_end:
        return ABSENT
    for place in range(len(_ISO)):
        byte, form = data[begin + place], _ISO[place]
        if byte != form and (form != _ZERO or np.uint8(byte - _ZERO) > 9):
            return ABSENT
    zone, ms = seconds_end, np.int64(0)
    if data[zone] == _POINT:
        zone += 1
        while zone < end and np.uint8(data[zone] - _ZERO) <= 9:
            zone += 1
        digits = zone - seconds_end - 1
        if not 0 < digits <= _ISO_FRACTION:
            return ABSENT
        kept = min(digits, 3)
        ms = _whole(data, seconds_end + 1, seconds_end + 1 + kept) * _POWERS[3 - kept]
    if not (_is_word(data, zone, end, _Z) or _is_word(data, zone, end, _UTC)):
        return ABSENT
    year, month = _whole(data, begin, begin + 4), _whole(data, begin + 5, begin + 7)
    day, hour = _whole(data, begin + 8, begin + 10), _whole(data, begin + 11, begin + 13)
    minute, second = _whole(data, begin + 14, begin + 16), _whole(data, begin + 17, begin + 19)
    if year < _EPOCH_YEAR or not 1 <= month <= 12 or hour > 23 or minute > 59 or second > 59:
        return ABSENT
    leap = np.int64(year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
    month_days = _DAYS_BEFORE_MONTH[month] - _DAYS_BEFORE_MONTH[month - 1] + leap * (month == 2)
    if not 1 <= day <= month_days:
        return ABSENT
    past = year - 1
    days = 365 * (year - _EPOCH_YEAR) + past // 4 - past // 100 + past // 400 - _LEAP_DAYS
    days += _DAYS_BEFORE_MONTH[month - 1] + leap * (month > 2) + day - 1
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + ms


@compiled
def _fill_amounts(data: Array, spans: Array, swap: Any) -> bool:
    end = spans[AMOUNT, 1]
    begin, point = _decimal(data, spans[AMOUNT, 0], end)
    if point == ABSENT or point - begin > _AMOUNT_DIGITS:
        return False
    # In units of 10^-18 the fraction is the low digit of base 10^18, and 18 digits before the point
    # are the middle one.
    middle = max(begin, point - _WHOLE_DIGITS)
    swap.amount_high = _whole(data, begin, middle)
    swap.amount_mid = _whole(data, middle, point)
    swap.amount_low = _fraction(data, point, end, _AMOUNT_PLACES)
    swap.amount_low += _rounds_up(data, point, end, _AMOUNT_PLACES, swap.amount_low)
    # A fraction that rounds up to 1 would have to carry, and an amount of 0 is refused: both are
    # for the rules.
    if swap.amount_low == _LIMB or swap.amount_low + swap.amount_mid + swap.amount_high == 0:
        return False
    swap.usd, swap.price = UNPRICED, np.nan
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
    """Fill the price of the event, or else USD / amount."""
    if spans[PRICE_USD, 0] != ABSENT:
        price_begin, point = _decimal(data, spans[PRICE_USD, 0], spans[PRICE_USD, 1])
        if point == ABSENT:
            return False
        sure, swap.price = _float(data, price_begin, spans[PRICE_USD, 1])
        return sure and swap.price > 0
    if usd > 0:
        # As the rules do: both decimals are rounded to floats before the division.
        sure, amount = _float(data, begin, end)
        swap.price = usd / amount
        return sure and usd_sure
    return True


@compiled
def _is_word(data: Array, begin: int, end: int, word: Array) -> bool:
    if end - begin != len(word):
        return False
    for place in range(len(word)):
        if data[begin + place] != word[place]:
            return False
    return True


@compiled
def _whole(data: Array, begin: int, end: int) -> int:
    """Return the whole number of at most 18 digits; 0 for none."""
    number = np.int64(0)
    for at in range(begin, end):
        number = number * 10 + (data[at] - _ZERO)
    return number


@compiled
def _decimal(data: Array, begin: int, end: int) -> tuple[int, int]:
    """Return (begin without leading zeros, position of the point or `end`).

    The second is ABSENT where the text is not a plain decimal, which has digits before the point
    and, if there is a point, after it. Leading zeros occur in texts, where JSON does not forbid
    them.
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
    """Return the fraction in units of 10^-places, with further digits cut off."""
    stop = min(end, point + 1 + places)
    if stop <= point + 1:
        return 0
    return _whole(data, point + 1, stop) * _POWERS[places - (stop - point - 1)]


@compiled
def _rounds_up(data: Array, point: int, end: int, places: int, number: int) -> int:
    """Return 1 where the digits after the last place round `number` up, half to even; else 0."""
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
    """Return (certain, the float nearest to a decimal).

    The mantissa holds the first 19 digits. Of a longer decimal, the value lies between this
    mantissa and the next one: if both have the same nearest float, it is certain.
    """
    mantissa = np.uint64(0)
    digits = exponent = 0
    in_fraction = more = False
    for at in range(begin, end):
        if data[at] == _POINT:
            in_fraction = True
            continue
        digit = np.uint64(data[at] - _ZERO)
        if digits < _MANTISSA_DIGITS:
            mantissa = mantissa * np.uint64(10) + digit
            # Zeros before the first other digit use up no digit of the mantissa.
            digits += mantissa != 0
            exponent -= in_fraction
        else:
            more |= digit != 0
            exponent += not in_fraction
    nearest = _nearest(mantissa, exponent)
    return not more or nearest == _nearest(mantissa + np.uint64(1), exponent), nearest


@compiled
def _product(one: int, other: int) -> tuple[int, int]:
    """Return (high, low) of the 128-bit product of two 64-bit numbers."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    low = (one & mask) * (other & mask)
    left = (one >> half) * (other & mask)
    right = (one & mask) * (other >> half)
    middle = (low >> half) + (left & mask) + (right & mask)
    high = (one >> half) * (other >> half) + (left >> half) + (right >> half) + (middle >> half)
    return high, one * other


@compiled
def _nearest(mantissa: int, exponent: int) -> float:
    """Return the float nearest to mantissa * 10^exponent, half to even; |exponent| <= _MOST_DIGITS.

    The method of Eisel and Lemire (D. Lemire, Number Parsing at a Gigabyte per Second, 2021),
    without its cases for subnormal and infinite floats, which these exponents do not reach.
    """
    if mantissa == np.uint64(0):
        return 0.0
    # Shift the mantissa left until its highest bit is set, by binary search.
    zeros = 0
    for step in (32, 16, 8, 4, 2, 1):
        if mantissa >> np.uint64(64 - step) == np.uint64(0):
            mantissa = mantissa << np.uint64(step)
            zeros += step
    # 10^exponent = 5^exponent * 2^exponent: only the power of five changes the bits. Its first 64
    # bits suffice, unless the 9 bits below the mantissa are all 1: then the missing part of the
    # product could carry into the mantissa, and the next 64 bits are added.
    high, low = _product(mantissa, _FIVES_HIGH[exponent + _MOST_DIGITS])
    if high & np.uint64(0x1FF) == np.uint64(0x1FF):
        carry, _ = _product(mantissa, _FIVES_LOW[exponent + _MOST_DIGITS])
        low = low + carry
        if low < carry:
            high = high + np.uint64(1)
    # Keep the mantissa and one bit more, which rounds it. The highest bit of the product may be 0.
    top = high >> np.uint64(63)
    shift = top + np.uint64(64 - _MANTISSA_BITS - 3)
    bits = high >> shift
    # Exactly half way between two floats, and the lower one is even: clear the extra bit, so that
    # the next line rounds down. Only these powers of five allow an exact half.
    if (
        low <= np.uint64(1)
        and -4 <= exponent <= 23
        and bits & np.uint64(3) == np.uint64(1)
        and bits << shift == high
    ):
        bits = bits & ~np.uint64(1)
    bits = (bits + (bits & np.uint64(1))) >> np.uint64(1)
    # 217706 / 2^16 is log2(10), exact enough for the floor at these exponents.
    power = ((217706 * exponent) >> 16) + 63 + np.int64(top) - zeros - _MANTISSA_BITS
    return ldexp(np.float64(bits), power)
