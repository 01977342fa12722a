"""The clocks of one simulated node: a monotonic one that may drift, and a wall clock that may be wrong.

Virtual time is whole nanoseconds, the same for all nodes. Not responsible for when a clock goes wrong: that is a fault.
"""

from __future__ import annotations

import math

WALL_START_NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z, where a true wall clock stands at virtual time 0."""
_PARTS = 1_000_000


class Clocks:
    """`offset_ns`: how far the wall clock is ahead."""

    __slots__ = ("_drift", "_since_ns", "_stood_ns", "offset_ns")

    def __init__(self) -> None:
        self.offset_ns = 0
        self._drift = 0
        self._since_ns = 0
        self._stood_ns = 0

    def wall_ns(self, now_ns: int) -> int:
        """What this node takes for the time since 1970."""
        return WALL_START_NS + now_ns + self.offset_ns

    def monotonic_s(self, now_ns: int) -> float:
        """What this node's monotonic clock shows, in seconds."""
        if not self._drift:  # nearly always
            return (self._stood_ns + now_ns - self._since_ns) / 1e9
        return self._local_ns(now_ns) / 1e9

    def global_ns(self, local_s: float) -> int:
        """The virtual time at which the monotonic clock has reached `local_s`: never too early."""
        ahead_ns = math.ceil(local_s * 1e9) - self._stood_ns
        at_ns = self._since_ns + -(-ahead_ns * _PARTS // (_PARTS + self._drift))
        while self.monotonic_s(at_ns) < local_s:  # rounding of the float
            at_ns += 1
        return at_ns

    def drift(self, parts_per_million: int, now_ns: int) -> None:
        """From now on the monotonic clock is fast by this much, or slow by as much below zero."""
        self._stood_ns = self._local_ns(now_ns)
        self._since_ns, self._drift = now_ns, parts_per_million

    def _local_ns(self, now_ns: int) -> int:
        return self._stood_ns + (now_ns - self._since_ns) * (_PARTS + self._drift) // _PARTS
