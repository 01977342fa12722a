"""The supervisor tree: Erlang/OTP supervision on Trio nurseries.

An actor is an async callable `(ctx, *, task_status)`. A `Child` says how to run it, a `Supervisor` holds children and is
an actor itself, a `Pool` (`dynamic`) makes them by key, `open_tree` runs a tree inside an application. Others reach an
actor through a `Ref`, which is a path and outlives restarts; what happens is told by events.

Knows nothing of networks and imports nothing of Holloway's; Trio is all it needs. The place of each part: `spec` (words),
`policy` and `roster` (decisions, pure), `watcher` (one run of one child), `inbox` and `life` (the loop of a supervisor),
`pool`, `tree`, `ref`, `context`, `events`, `errors`.
"""

from holloway.supervisor.context import Context, Registry
from holloway.supervisor.errors import (
    ActorDown,
    ChildStartError,
    GraceOverrun,
    IntensityExceeded,
    PoolFull,
    SpecError,
    SupervisorError,
)
from holloway.supervisor.events import (
    ChildExited,
    ChildInfo,
    ChildOverranGrace,
    ChildRestarting,
    ChildStarted,
    ChildStartFailed,
    Event,
    Exit,
    State,
    SupervisorGaveUp,
    TreeStopped,
)
from holloway.supervisor.pool import Pool, dynamic
from holloway.supervisor.ref import Ref, Stash
from holloway.supervisor.spec import (
    LINGER_S,
    Actor,
    AutoShutdown,
    Backoff,
    Child,
    Intensity,
    Restart,
    Strategy,
)
from holloway.supervisor.tree import Supervisor, Tree, open_tree

__all__ = [
    "LINGER_S",
    "Actor",
    "ActorDown",
    "AutoShutdown",
    "Backoff",
    "Child",
    "ChildExited",
    "ChildInfo",
    "ChildOverranGrace",
    "ChildRestarting",
    "ChildStartError",
    "ChildStartFailed",
    "ChildStarted",
    "Context",
    "Event",
    "Exit",
    "GraceOverrun",
    "Intensity",
    "IntensityExceeded",
    "Pool",
    "PoolFull",
    "Ref",
    "Registry",
    "Restart",
    "SpecError",
    "Stash",
    "State",
    "Strategy",
    "Supervisor",
    "SupervisorError",
    "SupervisorGaveUp",
    "Tree",
    "TreeStopped",
    "dynamic",
    "open_tree",
]
