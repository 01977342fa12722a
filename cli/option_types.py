"""Types of options that several verbs take: addresses, networks, durations. A value that is none is a usage error.

Not responsible for what the values are for.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import Any, Final

import click

from holloway.protocols.durations import read_duration


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on
    """A value by the function that reads its text, which raises ValueError for anything else."""

    def __init__(self, name: str, read: Callable[[str], object]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _seconds(text: str) -> int:
    seconds = _duration(text)
    if not 0 < seconds <= MAX_DURATION_S or seconds != int(seconds):
        raise ValueError(f"{text!r} is no time: write 30m, 1h or 2d, up to {MAX_DURATION_S // 86_400}d")
    return int(seconds)


def _duration(text: str) -> float:
    try:
        return read_duration(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no time: {error}") from None


def seconds_between(low: float, high: float) -> Parsed:
    """A time of more than `low` seconds (a `low` above 0 itself is one, too), and `high` at most, with or without a unit."""

    def read(text: str) -> float:
        seconds = _duration(text)
        if not low <= seconds <= high or not seconds:
            raise ValueError(f"{text!r} is out of range: from {low:g} to {high:g} s")
        return seconds

    return Parsed("time", read)


MAX_DURATION_S = 90 * 86_400
ADDRESS: Final = Parsed("address", IPv4Address)
NETWORK: Final = Parsed("network", IPv4Network)
PREFIX: Final = Parsed("prefix", ip_network)
DURATION: Final = Parsed("time", _seconds)
