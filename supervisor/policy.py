"""The rules of supervision, one by one: no Trio, no clock, no randomness; those are parameters.

Which ends call for a restart, how long to wait before it, how many there may be, and the shape of a decision. Not
responsible for the children themselves: `Roster` holds their states and applies these rules to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from holloway.supervisor.spec import Backoff, Intensity, Restart


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing follows: the child is down and stays down."""


@dataclass(frozen=True, slots=True)
class Regroup:
    """Stop the children `stop` in that order. Those of `restart`, in start order, come back after `delay_s` seconds."""

    stop: tuple[str, ...]
    restart: tuple[str, ...]
    delay_s: float


@dataclass(frozen=True, slots=True)
class ShutDown:
    """The significant children are gone: the supervisor has done its work."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The restart budget is spent. `spent` are the ends that spent it, oldest first: child, and its error if any."""

    spent: tuple[tuple[str, Exception | None], ...]


Decision: TypeAlias = Leave | Regroup | ShutDown | GiveUp


def wants_restart(restart: Restart, *, failed: bool) -> bool:
    """Whether a child of this type is started again after it ended by itself."""
    match restart:
        case Restart.PERMANENT:
            return True
        case Restart.TRANSIENT:
            return failed
        case Restart.TEMPORARY:
            return False
        case _:
            assert_never(restart)


def next_delay(backoff: Backoff, previous: float | None) -> float:
    """The wait, before jitter, that follows a wait of `previous` seconds; `None` for the first in a row."""
    return backoff.initial if previous is None else min(backoff.maximum, previous * backoff.factor)


class Budget:
    """Counts restarts in a sliding window that includes both its ends, as OTP's `add_restart/3` does."""

    def __init__(self, intensity: Intensity) -> None:
        self._intensity = intensity
        self._spent: list[tuple[float, str, Exception | None]] = []

    def spend(self, now: float, name: str, error: Exception | None) -> bool:
        """Count one restart of `name` at `now`. False if that was one too many."""
        self._spent = [entry for entry in self._spent if now - entry[0] <= self._intensity.period]
        self._spent.append((now, name, error))
        return len(self._spent) <= self._intensity.restarts

    def spent(self) -> tuple[tuple[str, Exception | None], ...]:
        """The restarts in the window, oldest first: never more than one over the budget."""
        return tuple((name, error) for _, name, error in self._spent)
