"""What a tree tells the outside: the end of an actor, the events of supervision, and the state of a child.

Everything here is data. Logs, metrics, status pages and traces of a simulation are subscribers (`on_event`) and readers
(`children()`); none of them is known to this room. Not responsible for deciding anything.

Times are seconds of `trio.current_time()`. `incarnation` counts the starts of a child, from 1, in one life of its
supervisor.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal, TypeAlias

from holloway.supervisor.errors import IntensityExceeded, SupervisorError

ExitReason: TypeAlias = Literal["returned", "failed", "stopped", "killed_late"]


@dataclass(frozen=True, slots=True)
class Exit:
    """How one incarnation of an actor ended.

    * `returned`: it came to its own end.
    * `failed`: it raised `error`, on its own or in its cleanup while it was being stopped.
    * `stopped`: its supervisor, or a cancellation from outside the tree, ended it in time.
    * `killed_late`: its supervisor had to cancel it because its grace ran out.

    `error` has lost its traceback once the event has been delivered: format it inside the subscriber.
    """

    reason: ExitReason
    error: Exception | None
    at: float
    incarnation: int


class State(enum.Enum):
    """Where a child stands in its supervisor's eyes."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    WAITING = "waiting"  # down, to be started again
    STOPPED = "stopped"  # down, spec kept
    ZOMBIE = "zombie"  # cancelled, and running on past every deadline


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """One line of a status page. `restarts` counts the automatic ones; `error` is the text of the last failure."""

    name: str
    state: State
    incarnation: int
    restarts: int
    error: str | None


@dataclass(frozen=True, slots=True)
class ChildStarted:
    """The child is ready."""

    path: str
    at: float
    incarnation: int


@dataclass(frozen=True, slots=True)
class ChildExited:
    """A child that had been ready has ended. Each `ChildStarted` is followed by exactly one of these."""

    path: str
    at: float
    exit: Exit


@dataclass(frozen=True, slots=True)
class ChildRestarting:
    """The child will be started again `delay_s` seconds from `at`, because the child at `because` ended."""

    path: str
    at: float
    delay_s: float
    because: str


@dataclass(frozen=True, slots=True)
class ChildStartFailed:
    """The child failed, returned or ran out of time before it was ready. Its own error is `error.__cause__`."""

    path: str
    at: float
    incarnation: int
    error: SupervisorError


@dataclass(frozen=True, slots=True)
class ChildOverranGrace:
    """The child runs on, after its grace and a cancellation. `stack` shows where each of its tasks stands."""

    path: str
    at: float
    incarnation: int
    stack: str


@dataclass(frozen=True, slots=True)
class SupervisorGaveUp:
    """The supervisor at `path` exceeded its restart intensity. It stops its children, then raises `error`."""

    path: str
    at: float
    error: IntensityExceeded


@dataclass(frozen=True, slots=True)
class TreeStopped:
    """The last event of a tree: nothing of it runs any more. `error` is what its root raised, if it did."""

    path: str
    at: float
    error: SupervisorError | None


Event: TypeAlias = (
    ChildStarted | ChildExited | ChildRestarting | ChildStartFailed | ChildOverranGrace | SupervisorGaveUp | TreeStopped
)
