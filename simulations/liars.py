"""A node whose reports of how records arrive are false. It lies in one way as long as the fault lasts: the seed says which.

Its sessions count as always; only what they report is another thing. Not responsible for what reports are for
(`record_size`).
"""

from __future__ import annotations

import random
from enum import Enum

from holloway.protocols.record_size import LossMeter, Report
from holloway.protocols.session import Session
from holloway.simulations.record_oracles import meters_of, use_meter
from holloway.simulations.streams import below


class Lie(Enum):
    """What it reports."""

    ABSURD = "any numbers, or that far more arrived than was sent"
    STALE = "what it reported first, again and again"
    CLEAN = "that nothing is lost any more"
    LOSSY = "one more loss each time"


_LIES = tuple(Lie)


class Liar:
    """One node while the fault lasts."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.lie = _LIES[below(dice.getrandbits(64), len(_LIES))]

    def corrupt(self, session: Session) -> None:
        """What the session reports from now on is false, under every key that it has."""
        for index, meter in meters_of(session).items():
            if not isinstance(meter, _FalseMeter):
                use_meter(session, index, _FalseMeter(meter, self.lie, self._dice))


def reform(session: Session) -> None:
    """What the session reports from now on is true."""
    for index, meter in meters_of(session).items():
        if isinstance(meter, _FalseMeter):
            use_meter(session, index, meter.honest)


class _FalseMeter(LossMeter):
    """Counts by the honest one, and tells something else."""

    __slots__ = ("_dice", "_first", "_lie", "_told", "honest")

    def __init__(self, honest: LossMeter, lie: Lie, dice: random.Random) -> None:
        self.honest, self._lie, self._dice = honest, lie, dice
        self._first: Report | None = None
        self._told = 0

    @property
    def due_at(self) -> float | None:  # type: ignore[override]
        return self.honest.due_at

    @property
    def _datagrams(self) -> int:  # type: ignore[override]
        return self.honest._datagrams

    @property
    def _records(self) -> int:  # type: ignore[override]
        return self.honest._records

    @property
    def _lost(self) -> int:  # type: ignore[override]
        return self.honest._lost

    def arrived(self, counter: int, datagrams: int, now: float, *, is_report: bool = False) -> bool:
        """See `LossMeter`."""
        return self.honest.arrived(counter, datagrams, now, is_report=is_report)

    def arrived_row(self, first: int, count: int, now: float, datagrams: int) -> bool:
        """See `LossMeter`."""
        return self.honest.arrived_row(first, count, now, datagrams)

    def report(self, now: float) -> Report:
        """See `LossMeter`. Not what was counted."""
        true = self.honest.report(now)
        if self._first is None:
            self._first = true
        self._told += 1
        match self._lie:
            case Lie.ABSURD:
                absurd = Report(*(self._dice.getrandbits(32) for _ in range(4)))
                # Nobody would believe the first; of the second only what arrived is a lie.
                return absurd if self._told & 1 else absurd._replace(datagrams=(1 << 32) - 1, lost=0, losses=0)
            case Lie.STALE:
                return self._first
            case Lie.CLEAN:
                return true._replace(lost=self._first.lost, losses=self._first.losses)
            case Lie.LOSSY:
                losses = self._first.losses + self._told
                return true._replace(lost=max(true.lost, self._first.lost + self._told), losses=losses)
