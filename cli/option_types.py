"""Types of options that several verbs take: addresses, networks, durations. A value that is none is a usage error.

Not responsible for what the values are for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import Any, Final

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9})([smhd]?)\Z")


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
    found = _DURATION.match(text)
    seconds = int(found[1]) * _UNITS[found[2] or "s"] if found else 0
    if not 0 < seconds <= MAX_DURATION_S:
        raise ValueError(f"{text!r} is no time: write 30m, 1h or 2d, up to {MAX_DURATION_S // 86_400}d")
    return seconds


MAX_DURATION_S = 90 * 86_400
ADDRESS: Final = Parsed("address", IPv4Address)
NETWORK: Final = Parsed("network", IPv4Network)
PREFIX: Final = Parsed("prefix", ip_network)
DURATION: Final = Parsed("time", _seconds)
