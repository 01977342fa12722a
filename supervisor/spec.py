"""How a tree is described, before anything runs: frozen data that refuses what cannot hold.

Responsible for the vocabulary (`Child`, strategies, restart types, budgets) and for every check that needs no running
tree. Not responsible for what the words make a supervisor do: that is `policy`.

The words are those of Erlang/OTP's `supervisor` (stdlib, lib/stdlib/src/supervisor.erl; "Supervisor Behaviour" in the
OTP design principles), with a backoff that OTP does not have.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from holloway.supervisor.errors import SpecError

if TYPE_CHECKING:
    import trio

    from holloway.supervisor.context import Context

LINGER_S = 5.0  # how long a cancelled child may still clean up before it is called a zombie

Handle_co = TypeVar("Handle_co", covariant=True)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SpecError(otherwise)


class Actor(Protocol[Handle_co]):
    """Any async callable that takes a context and says when it is ready.

    It calls `task_status.started(handle)` once, when others may use `handle`; it runs until it returns, raises, or is
    cancelled. Before `started` nothing of it is visible to the rest of the tree.
    """

    async def __call__(self, ctx: Context, *, task_status: trio.TaskStatus[Handle_co]) -> None: ...


class Restart(enum.Enum):
    """Which ends of a child call for another start. (A stop asked for by the supervisor never does.)"""

    PERMANENT = "permanent"  # every end
    TRANSIENT = "transient"  # only a failure
    TEMPORARY = "temporary"  # none, not even as the sibling of a failure; the spec goes with the child


class Strategy(enum.Enum):
    """Who is stopped and started along with a child that has to be started again."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"  # those after it in start order


class AutoShutdown(enum.Enum):
    """Whether the supervisor ends, returning normally, once significant children have ended by themselves for good."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before each restart in a row, in seconds.

    The waits are `initial`, `initial * factor`, ... up to `maximum`, each shortened by a random part of up to `jitter`
    (0: exact, 1: anywhere between none and all of it), so children that fell together do not come back together. A child that
    was up for `reset_after` begins at `initial` again. `initial=0` restarts at once, always.
    """

    initial: float = 0.1
    maximum: float = 30.0
    factor: float = 2.0
    jitter: float = 0.2
    reset_after: float = 60.0

    def __post_init__(self) -> None:
        _require(0 <= self.initial <= self.maximum < math.inf, "backoff needs 0 <= initial <= maximum < inf")
        _require(1 <= self.factor < math.inf, "a backoff factor is at least 1")
        _require(0 <= self.jitter <= 1, "jitter is a part: 0 to 1")
        _require(self.reset_after >= 0, "reset_after is not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensity:
    """At most `restarts` restarts in any `period` seconds; one more and the supervisor gives up.

    Counted over all children of one supervisor. Budgets multiply through levels: a parent that allows 3 of a child
    that allows 3 sees up to 16 crashes of the grandchild. OTP's default is 1 in 5 s; this one allows the same burst a
    little more, over a longer time, because restarts here back off.
    """

    restarts: int = 3
    period: float = 30.0

    def __post_init__(self) -> None:
        _require(self.restarts >= 0, "restarts is not negative")
        _require(self.period > 0, "period is longer than nothing")


DEFAULT_BACKOFF = Backoff()
DEFAULT_INTENSITY = Intensity()


@dataclass(frozen=True, slots=True, kw_only=True)
class Child(Generic[Handle_co]):
    """One child of a supervisor.

    `start_timeout`: seconds until it must be ready. `stop_grace`: seconds it has to leave by itself once `ctx.stopping`
    is set; an actor that never looks at `ctx.stopping` is cancelled at once. Both may be `math.inf`, and for a
    supervisor should be (`Supervisor.as_child`). `significant` counts for `AutoShutdown`.

    Raises `SpecError` for a name that is empty or has a dot (dots join names into paths), for times that are negative,
    and for a child both significant and permanent, which could never be missed.
    """

    name: str
    run: Actor[Handle_co]
    restart: Restart = Restart.PERMANENT
    start_timeout: float = 10.0
    stop_grace: float = 5.0
    backoff: Backoff = DEFAULT_BACKOFF
    significant: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        _require(self.start_timeout > 0, f"{self.name}: start_timeout is longer than nothing")
        _require(self.stop_grace >= 0, f"{self.name}: stop_grace is not negative")
        _require(
            not (self.significant and self.restart is Restart.PERMANENT),
            f"{self.name}: a permanent child always comes back, so it cannot be significant",
        )


def check_name(name: str) -> None:
    """Raises `SpecError` unless `name` can be one step of a path."""
    _require(bool(name) and "." not in name, f"{name!r} is no name: it is empty or has a dot")


def check_significance(child: Child[Any], auto_shutdown: AutoShutdown) -> None:
    """Raises `SpecError` for a significant child of a supervisor that never shuts itself down."""
    _require(
        not (child.significant and auto_shutdown is AutoShutdown.NEVER),
        f"{child.name}: significant means nothing where auto_shutdown is NEVER",
    )


def check_siblings(children: Iterable[Child[Any]], auto_shutdown: AutoShutdown) -> None:
    """Raises `SpecError` for children that cannot stand under one supervisor."""
    names: set[str] = set()
    for child in children:
        _require(child.name not in names, f"two children are called {child.name}")
        names.add(child.name)
        check_significance(child, auto_shutdown)
