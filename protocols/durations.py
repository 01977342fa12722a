"""Lengths of time as people write them: `90`, `250s`, `1.5h`, `2d`. Not responsible for which lengths make sense where."""

from __future__ import annotations

import re

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smhd]?)\Z")


def read_duration(text: str) -> float:
    """Seconds; without a unit the number is of seconds. Raises ValueError for any other text."""
    found = _DURATION.match(text.strip())
    if found is None:
        raise ValueError("write seconds, or a number with one of s, m, h and d: 90, 30m, 1.5h, 2d")
    return float(found[1]) * UNITS[found[2] or "s"]
