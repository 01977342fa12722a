"""The agenda of a world on Trio's clock: one task that does what is due and sleeps until the next.

Not responsible for how that clock runs (`determinism`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

import trio

from holloway.simulations.heap import Agenda


class Pump(Agenda):
    """See `Agenda`. Made outside the run, where its time is 0; after `stop` time stands."""

    def __init__(self) -> None:
        self.events = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0
        self._is_running = False
        self._is_awake = True
        self._stopped_ns = 0
        self._sleep = trio.CancelScope()

    @property
    def now_ns(self) -> int:
        """See `Agenda`."""
        return round(trio.current_time() * 1e9) if self._is_running else self._stopped_ns

    def at(self, at_ns: int, action: Callable[..., None], *arguments: object) -> None:
        """See `Agenda`."""
        self._planned += 1
        heapq.heappush(self._heap, (at_ns, self._planned, action, arguments))
        if not self._is_awake and self._heap[0][1] == self._planned:
            self._sleep.deadline = at_ns / 1e9

    def start(self) -> None:
        """Take the time from Trio's clock from now on."""
        self._is_running = True

    def stop(self) -> None:
        """Time stands still where it is."""
        self._stopped_ns = self.now_ns
        self._is_running = False

    async def run(self, until_ns: int) -> None:
        """Do everything that is due up to `until_ns`. Raises what an action raises."""
        heap = self._heap
        while True:
            now_ns = self.now_ns
            while heap and heap[0][0] <= now_ns:
                _, _, action, arguments = heapq.heappop(heap)
                self.events += 1
                action(*arguments)
            if now_ns >= until_ns:
                return
            at_ns = min(heap[0][0] if heap else until_ns, until_ns)
            self._is_awake = False
            with trio.CancelScope(deadline=at_ns / 1e9) as self._sleep:
                await trio.sleep(math.inf)
            self._is_awake = True
