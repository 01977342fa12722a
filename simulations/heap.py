"""Virtual time: what is to happen, in order. Things due in the same nanosecond happen in the order they were planned.

`Agenda` is what the world plans with; `Timeline` is the one that makes time pass by itself. The other one is on Trio's clock
(`pump`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Protocol

from holloway.simulations.oracles import hold, time_moves


class Agenda(Protocol):
    """`now_ns` is whole nanoseconds from 0; `events` counts what has happened."""

    events: int

    @property
    def now_ns(self) -> int:
        """Virtual time."""

    def at(self, at_ns: int, action: Callable[..., None], *arguments: object) -> None:
        """Call `action(*arguments)` at `at_ns`, which is not past."""


class Timeline:
    """Time that passes as fast as things can happen."""

    __slots__ = ("_heap", "_planned", "events", "now_ns")

    def __init__(self) -> None:
        self.now_ns = 0
        self.events = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0

    def at(self, at_ns: int, action: Callable[..., None], *arguments: object) -> None:
        """See `Agenda`."""
        self._planned += 1
        heapq.heappush(self._heap, (at_ns, self._planned, action, arguments))

    def run(self, until_ns: int, limit: int) -> None:
        """Let everything happen that is due up to `until_ns`. Raises `PropertyViolated` at `limit` events."""
        heap, pop = self._heap, heapq.heappop
        last = self.events + limit
        while heap and heap[0][0] <= until_ns:
            self.now_ns, _, action, arguments = pop(heap)
            self.events += 1
            if self.events >= last:
                hold(time_moves, limit, limit)
            action(*arguments)
        self.now_ns = until_ns
