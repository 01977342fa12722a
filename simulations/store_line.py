"""The way between one node and the simulated registry: how long it takes, and what the faults at work do to it.

Every fault has its own dice for each node, and so have calls and watches: one draw for each call, or for each batch of
changes, whatever the others draw. Not responsible for when a fault begins (`store`), nor for asking and answering
(`store_door`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import trio

from holloway.simulations.faults import Fault
from holloway.simulations.streams import WORD, below, stream

TOLD_LINES = 1_000
"""Lines that one node's dealings with the store add to a trace in one run; the rest is not told."""


@dataclass(frozen=True, slots=True)
class _Outage:
    """An outage at work: how likely a call gets no answer at all, and the dice that decide."""

    silent: float
    dice: random.Random


class Line:
    """One node's way to the store, through all lives of the node."""

    def __init__(
        self,
        seed: int,
        node: str,
        latency_ns: tuple[int, int],
        tell: Callable[[str, str], None],
        reach: Callable[[str], None],
    ) -> None:
        self.node = node
        self.reach = reach
        self.news = trio.lowlevel.ParkingLot()
        """Where calls on their way wait for what may end them before their time."""
        self.cuts = 0
        """How many outages have begun: what was under way at another count is lost."""
        self.forgotten = 0
        """The last revision that a compaction has taken from this node, if it befell only some."""
        self._seed, self._latency_ns, self._tell = seed, latency_ns, tell
        self._told = 0
        self._calls = stream(seed, "store", node)
        self._batches = stream(seed, "store", node, "watch")
        self._dice: dict[str, random.Random] = {}
        self._outages: dict[str, _Outage] = {}
        self._stale: dict[str, None] = {}
        self._full: dict[str, None] = {}

    # Faults that last. One that begins twice is one; two of a kind end when both have ended.

    def begin(self, fault: Fault) -> None:
        """A fault befalls this node from now on."""
        if fault.kind == "store_down":
            dice = self._dice.setdefault(fault.name, stream(self._seed, fault.name, self.node))
            self._outages[fault.name] = _Outage(fault.values["silent"], dice)
            self.cuts += 1
        elif fault.kind == "stale_watch":
            self._stale[fault.name] = None
        else:
            self._full[fault.name] = None

    def end(self, fault: Fault) -> None:
        """The fault is over, if it was there."""
        for active in (self._outages, self._stale, self._full):
            active.pop(fault.name, None)
        self.news.unpark_all()

    @property
    def is_down(self) -> bool:
        return bool(self._outages)

    @property
    def is_stale(self) -> bool:
        return bool(self._stale)

    @property
    def is_full(self) -> bool:
        return bool(self._full)

    def gets_silence(self) -> bool:
        """Whether a call that an outage hits hears nothing until the end. Takes one draw of each outage at work."""
        draws = [outage.dice.getrandbits(64) < outage.silent * WORD for outage in self._outages.values()]
        return any(draws)

    # Time.

    def call_s(self) -> float:
        """How long one call takes, there and back."""
        return self._draw(self._calls) / 10**9

    def batch_s(self) -> float:
        """How long news takes to come: half of what a call takes."""
        return self._draw(self._batches) / (2 * 10**9)

    def _draw(self, dice: random.Random) -> int:
        low, high = self._latency_ns
        return low + below(dice.getrandbits(64), high - low + 1)

    def tell(self, what: str) -> None:
        """A line for the trace."""
        self._told += 1
        if self._told < TOLD_LINES:
            self._tell(self.node, what)
        elif self._told == TOLD_LINES:
            self._tell(self.node, "no more is told of this node and the store")


@dataclass(slots=True, eq=False)
class Life:
    """One life of the process on a node."""

    line: Line
    is_dead: bool = False
    has_lost_lease: bool = False
    """A lease it was told of vanished without its doing, and it has not been granted another since."""
