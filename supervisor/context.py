"""What a supervised actor may touch besides its own arguments, and what the supervisors of one tree share.

`Context` is given to one incarnation of one actor. `Registry` is the tree's: paths, the stream of events, the seed.
There is one registry for each tree and none for the process, so two trees never meet.

Not responsible for deciding or running anything.
"""

from __future__ import annotations

import logging
import random
import weakref
from collections.abc import Callable
from typing import Any, assert_never

import trio

from holloway.supervisor.errors import brief
from holloway.supervisor.events import (
    ChildExited,
    ChildOverranGrace,
    ChildRestarting,
    ChildStarted,
    ChildStartFailed,
    Event,
    SupervisorGaveUp,
    TreeStopped,
)
from holloway.supervisor.ref import Cell, Ref

LOG = logging.getLogger("holloway.supervisor")


class ActorLog(logging.Logger):
    """The logger of one actor, `holloway.supervisor.` and its path. It passes what it is told on to `LOG`.

    Not made by `logging.getLogger`, which keeps every logger it ever made: pools make actors without end. For the same
    reason it remembers no levels: nobody could tell it to forget them.
    """

    def __init__(self, path: str) -> None:
        super().__init__(f"{LOG.name}.{path}")
        self.parent = LOG

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - its name in the standard library
        return self.manager.disable < level and level >= self.getEffectiveLevel()


class Registry:
    """The names, the events and the seed of one tree.

    `on_event` gets every event, in order, from whichever supervisor it concerns; it must not raise and must not wait.
    """

    def __init__(self, root: str, *, seed: int = 0, on_event: Callable[[Event], None] | None = None) -> None:
        self.root = root
        self._seed = seed
        self._on_event = on_event
        self._closed = False
        # A cell lives as long as a supervisor runs its child or somebody holds a ref to it.
        self._cells: weakref.WeakValueDictionary[str, Cell[Any]] = weakref.WeakValueDictionary()

    def cell(self, path: str) -> Cell[Any]:
        """The cell at the full `path`, made if nobody has asked for it before."""
        cell = self._cells.get(path)
        if cell is None:
            cell = self._cells[path] = Cell(path)
            cell.tree_stopped = self._closed
        return cell

    def ref(self, path: str) -> Ref[Any]:
        """A ref by the path below the root: "dataplane.udp"."""
        return Ref(self.cell(f"{self.root}.{path}"))

    def rng(self, stream: str) -> random.Random:
        """The tree's own random stream of that name: what one actor draws does not move what another one draws."""
        return random.Random(f"{self._seed}/{stream}")  # noqa: S311 - jitter and the like; keys have a port of their own

    def publish(self, event: Event) -> None:
        """Log `event` and hand it to the subscriber."""
        _log(event)
        if self._on_event is not None:
            self._on_event(event)

    def close(self) -> None:
        """The tree has stopped: wake all who wait for an actor of it."""
        self._closed = True
        for cell in list(self._cells.values()):
            cell.close()


class Context:
    """What one incarnation of an actor is given.

    `path` is its full name, "node.dataplane.udp". What it does not ask for is not made: a pool of ten thousand idle
    actors has no random streams and no stop events.
    """

    __slots__ = ("_incarnation", "_log", "_rng", "_stopping", "path", "registry")

    def __init__(self, path: str, registry: Registry, *, incarnation: int = 1) -> None:
        self.path = path
        self.registry = registry
        self._incarnation = incarnation
        self._stopping: trio.Event | None = None
        self._rng: random.Random | None = None
        self._log: ActorLog | None = None

    @property
    def stopping(self) -> trio.Event:
        """Set when the actor should finish what it is doing and return.

        Asking for it is what earns an actor its `stop_grace`: one that never does cannot heed it, and is cancelled at
        once when it is to stop.
        """
        if self._stopping is None:
            self._stopping = trio.Event()
        return self._stopping

    @property
    def heeds_stopping(self) -> bool:
        """Whether the actor has asked for `stopping`."""
        return self._stopping is not None

    @property
    def rng(self) -> random.Random:
        """This incarnation's own random stream, set by the tree's seed, its path and its number. Not for keys."""
        if self._rng is None:
            self._rng = self.registry.rng(f"{self.path}#{self._incarnation}")
        return self._rng

    @property
    def log(self) -> logging.Logger:
        """A logger named after the actor, below `holloway.supervisor`."""
        if self._log is None:
            self._log = ActorLog(self.path)
        return self._log

    def ref(self, path: str) -> Ref[Any]:
        """A ref to any actor of the tree by its path below the root: "dataplane.udp"."""
        return self.registry.ref(path)

    def sibling(self, name: str) -> Ref[Any]:
        """A ref to a child of the same supervisor, wherever in the tree that is mounted."""
        return Ref(self.registry.cell(f"{self.path.rpartition('.')[0]}.{name}"))


def _log(event: Event) -> None:
    """One line for each change. A crash is logged with its traceback, which nothing keeps afterwards."""
    match event:
        case ChildStarted(path, _, incarnation):
            LOG.debug("%s: started (%d)", path, incarnation)
        case ChildExited(path, _, how):
            if how.error is not None:
                LOG.warning("%s: failed: %s", path, brief(how.error), exc_info=how.error)
            else:
                LOG.log(logging.WARNING if how.reason == "killed_late" else logging.DEBUG, "%s: %s", path, how.reason)
        case ChildRestarting(path, _, delay_s, because):
            LOG.info("%s: restart in %.3g s, because of %s", path, delay_s, because)
        case ChildStartFailed(_, _, _, error):
            LOG.warning("%s", error, exc_info=error)
        case ChildOverranGrace(path, _, _, stack):
            LOG.error("%s: still running after its grace and a cancellation\n%s", path, stack)
        case SupervisorGaveUp(_, _, error):
            LOG.error("%s", error)
        case TreeStopped(path, _, failure):
            LOG.info("%s: stopped%s", path, "" if failure is None else f": {brief(failure)}")
        case _:
            assert_never(event)
