"""Quantities as scenarios write them: one value, or a range of which the seed draws a value.

    "250ms"   "5s..20s"   0.02   "0.01..0.2"   3   "1..4"   "1Mbit"   "64kbit..2Mbit"

Durations become whole nanoseconds, rates bits a second. Not responsible for which key has which quantity.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from holloway.simulations.streams import WORD, below

Value: TypeAlias = int | float

MAX_DURATION_NS = 366 * 86_400 * 10**9
MIN_PAUSE_NS = 100_000
"""Between things that happen again and again: a run has an end."""
MAX_COUNT = 1_000_000
MAX_RATE = 10**12

_DURATIONS = {"ms": 10**6, "us": 10**3, "ns": 1, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9, "d": 86_400 * 10**9}
_RATES = {"bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
_NUMBER = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)\Z")


class WrongValueError(ValueError):
    """A value of a scenario is not what its key needs; the text says what it needs."""


class Quantity(Enum):
    """What a value measures; the text says how it is written."""

    DURATION = 'a duration such as "250ms", "5s" or "2min"'
    PAUSE = 'a duration of 100us or more, such as "250ms"'
    OFFSET = 'a duration that may be negative, such as "-1.5s"'
    PROBABILITY = "a probability from 0 to 1"
    COUNT = f"a whole number from 1 to {MAX_COUNT}"
    DRIFT = "parts per million, from -100000 to 100000"
    RATE = 'a rate such as "64kbit" or "1Mbit"'


_BOUNDS: dict[Quantity, tuple[int, int]] = {
    Quantity.DURATION: (0, MAX_DURATION_NS),
    Quantity.PAUSE: (MIN_PAUSE_NS, MAX_DURATION_NS),
    Quantity.OFFSET: (-MAX_DURATION_NS, MAX_DURATION_NS),
    Quantity.PROBABILITY: (0, 1),
    Quantity.COUNT: (1, MAX_COUNT),
    Quantity.DRIFT: (-100_000, 100_000),
    Quantity.RATE: (1, MAX_RATE),
}


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included."""

    low: Value
    high: Value

    def draw(self, dice: random.Random) -> Value:
        """A value of the range; takes one draw, whatever the range is."""
        bits = dice.getrandbits(64)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return self.low + below(bits, self.high - self.low + 1)
        return self.low + (self.high - self.low) * (bits / WORD)


def is_within(value: object, quantity: Quantity) -> bool:
    """Whether `value` is what `quantity` reads texts to: of its type, and within its bounds."""
    low, high = _BOUNDS[quantity]
    if quantity is Quantity.PROBABILITY:
        return type(value) in (int, float) and low <= value <= high  # type: ignore[operator]
    return type(value) is int and low <= value <= high


def read_range(value: object, quantity: Quantity) -> Range:
    """One value or a range from a scenario. Raises `WrongValueError` with a message that says what was expected."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise WrongValueError(f"expected {quantity.value}, or a range of them")
    parts = value.split("..") if isinstance(value, str) else [value]
    if len(parts) > 2:
        raise WrongValueError(f'a range has two ends, as in "1..2"; {value!r} has {len(parts)}')
    ends = [_read(part, quantity) for part in parts]
    if ends[0] > ends[-1]:
        raise WrongValueError(f"the range {value!r} ends before it begins")
    return Range(ends[0], ends[-1])


def read_value(value: object, quantity: Quantity) -> Value:
    """One value from a scenario, no range. Raises `WrongValueError`."""
    if isinstance(value, str) and ".." in value:
        raise WrongValueError(f"expected {quantity.value}, not a range")
    return read_range(value, quantity).low


def seconds(nanoseconds: Value) -> str:
    """A duration for people: `12.34 s`."""
    return f"{nanoseconds / 1e9:.6g} s"


def _read(part: str | float, quantity: Quantity) -> Value:
    match = _NUMBER.match(str(part).strip())
    if match is None:
        raise WrongValueError(f"expected {quantity.value}, found {part!r}")
    number, unit = match.groups()
    match quantity:
        case Quantity.DURATION | Quantity.OFFSET | Quantity.PAUSE:
            result: Value = round(float(number) * _unit(_DURATIONS, unit, quantity, part))
        case Quantity.RATE:
            result = round(float(number) * _unit(_RATES, unit, quantity, part))
        case Quantity.PROBABILITY:
            result = _plain(float, number, unit, quantity, part)
        case Quantity.COUNT | Quantity.DRIFT:
            result = _plain(int, number, unit, quantity, part)
    if not is_within(result, quantity):
        raise WrongValueError(f"expected {quantity.value}, found {part!r}")
    return result


def _unit(units: dict[str, int], unit: str, quantity: Quantity, part: object) -> int:
    if unit not in units:
        raise WrongValueError(f"expected {quantity.value}, found {part!r}: the units are {', '.join(units)}")
    return units[unit]


def _plain(kind: type[int | float], number: str, unit: str, quantity: Quantity, part: object) -> Value:
    try:
        if not unit:
            return kind(number)
    except ValueError:
        pass
    raise WrongValueError(f"expected {quantity.value}, found {part!r}")
