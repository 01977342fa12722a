"""Supervisors as values, and the tree they make.

`Supervisor` is the description of one supervisor and, while it runs, the way to talk to it. It is an actor like any
other, so trees nest by putting one into a `Child` of another. `open_tree` runs one inside an application.

Not responsible for how a supervisor works: that is `life`, and a new one begins each time the supervisor is started.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from holloway.supervisor.context import Context, Registry
from holloway.supervisor.errors import ActorDown, SpecError, SupervisorError
from holloway.supervisor.events import ChildInfo, Event, Exit, State, TreeStopped
from holloway.supervisor.life import Life
from holloway.supervisor.ref import Ref
from holloway.supervisor.roster import Roster
from holloway.supervisor.spec import (
    DEFAULT_BACKOFF,
    DEFAULT_INTENSITY,
    AutoShutdown,
    Backoff,
    Child,
    Intensity,
    Restart,
    Strategy,
    check_name,
    check_siblings,
    check_significance,
)
from holloway.supervisor.watcher import contained

Handle = TypeVar("Handle")


class Supervisor:
    """Starts `children` in order, keeps them running by `strategy`, stops them in reverse.

    An actor whose handle is itself. It is ready when its last child is; if one does not start, it stops those that did,
    in reverse, and raises `ChildStartError`. It raises `IntensityExceeded` when `intensity` is spent, and returns when
    told to stop or by `auto_shutdown`. Started again by a parent it begins with `children`; those added since are gone.

    Raises `SpecError` for a spec that cannot hold: names twice, a significant child that means nothing, a child that is
    a supervisor and has less `stop_grace` than its own children together.

    A call made from a child that is not ready yet waits for that child to be ready, so such a child must not await one.
    """

    def __init__(
        self,
        children: Sequence[Child[Any]] = (),
        *,
        name: str,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        intensity: Intensity = DEFAULT_INTENSITY,
        auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
    ) -> None:
        check_name(name)
        check_siblings(children, auto_shutdown)
        for child in children:
            _check_grace(child)
        self.specs = tuple(children)
        self.name = name
        self.strategy = strategy
        self.intensity = intensity
        self.auto_shutdown = auto_shutdown
        self._life: Life | None = None

    def __repr__(self) -> str:
        return f"<Supervisor {self.name} {self.strategy.value} of {len(self.specs)}>"

    @property
    def stop_budget(self) -> float:
        """Seconds that stopping `specs` one after the other may take, cleanup after cancellation not counted."""
        return sum(child.stop_grace for child in self.specs)

    def as_child(
        self,
        *,
        restart: Restart = Restart.PERMANENT,
        backoff: Backoff = DEFAULT_BACKOFF,
        significant: bool = False,
    ) -> Child[Supervisor]:
        """This supervisor as a child of another: with all the time it needs to start and to stop its own."""
        return Child(
            name=self.name,
            run=self,
            restart=restart,
            backoff=backoff,
            significant=significant,
            start_timeout=math.inf,
            stop_grace=math.inf,
        )

    async def __call__(
        self, ctx: Context, *, task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Supervise until told to stop. Raises `SpecError` if this very object is running already."""
        if self._life is not None:
            raise SpecError(f"{self.name} is running already: one supervisor stands in one place")
        roster = Roster(strategy=self.strategy, intensity=self.intensity, auto_shutdown=self.auto_shutdown)
        self._life = Life(ctx, roster, self.intensity)
        try:
            failure = await self._life.live(self.specs, lambda: task_status.started(self))
        finally:
            self._life = None
        if failure is not None:
            raise failure

    async def start(self, child: Child[Handle]) -> Ref[Handle]:
        """Add `child`, last in order, and start it; it is ready when this returns.

        Raises `SpecError` (a name twice; also see the class), `ChildStartError` (the spec is not kept), `ActorDown` (this
        supervisor is down or stopping). Cancelled before the child is ready, the start is undone.
        """
        check_significance(child, self.auto_shutdown)
        _check_grace(child)
        return await self._running().start(child)

    async def stop(self, name: str) -> Exit:
        """Stop the child, keep its spec (unless it is temporary), and return how it ended; if it is down, how it had.

        A child waiting for its restart is not restarted. Raises `SpecError` (unknown), `ActorDown`, and `GraceOverrun` if it
        runs on, which takes no longer than its `stop_grace` and `LINGER_S`. Cancelling the caller does not undo a stop.
        """
        return await self._running().stop(name)

    async def restart(self, name: str) -> None:
        """Stop the child if it runs, without its siblings, and start it: a new incarnation is ready on return.

        Not counted as a restart. Raises as `stop` does, and `ChildStartError`, after which the child is stopped.
        Cancelling the caller does not undo it, so a child may restart itself.
        """
        await self._running().restart(name)

    def remove(self, name: str) -> None:
        """Forget the spec of a child that is stopped. Raises `SpecError` if it is not, or is unknown; `ActorDown`."""
        self._running().remove(name)

    def children(self) -> tuple[ChildInfo, ...]:
        """Every child and its state, in start order. While this supervisor is down: its specs, stopped."""
        if self._life is None:
            return tuple(ChildInfo(child.name, State.STOPPED, 0, 0, None) for child in self.specs)
        return self._life.children()

    def _running(self) -> Life:
        if self._life is None:
            raise ActorDown(self.name)
        return self._life


class Tree:
    """A running tree, as the application around it sees it."""

    def __init__(self, root: Supervisor, context: Context) -> None:
        self.root = root
        self._context = context
        self._ended = trio.Event()
        self._error: SupervisorError | None = None

    def ref(self, path: str) -> Ref[Any]:
        """A ref by the path below the root, "dataplane.udp". It need not be there yet."""
        return self._context.ref(path)

    def children(self) -> tuple[ChildInfo, ...]:
        """The children of the root."""
        return self.root.children()

    async def stop(self) -> None:
        """Stop every child, in reverse order, and wait until nothing runs. Leaving `open_tree` does this too."""
        self._context.stopping.set()
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until nothing of the tree runs: it was stopped, or shut itself down."""
        await self._ended.wait()

    async def run(self, *, task_status: trio.TaskStatus[Supervisor]) -> None:
        """The body of the root's task."""
        try:
            await self.root(self._context, task_status=task_status)
        except SupervisorError as error:
            self._error = error
            raise
        finally:
            registry = self._context.registry
            registry.close()
            registry.publish(TreeStopped(self._context.path, trio.current_time(), self._error))
            self._ended.set()


@asynccontextmanager
async def open_tree(
    root: Supervisor,
    *,
    on_event: Callable[[Event], None] | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[Tree]:
    """Run `root` beside the body: entered when all of it is ready, left when all of it has stopped in order.

    `on_event` is called with every event, within the step in which it happens; what it raises is logged. `rng` seeds
    all random streams of the tree (one number is drawn from it): same seed, same jitter.

    If the tree does not start, `ChildStartError` is raised on entry. If it gives up, the body is cancelled and
    `IntensityExceeded` is raised. If the body raises, the tree is stopped in order first. Each is raised bare; together
    they are a group. A cancellation from outside unwinds the tree at once, in no order.
    """
    seed = (random.Random() if rng is None else rng).getrandbits(64)  # noqa: S311 - jitter, not keys
    registry = Registry(root.name, seed=seed, on_event=None if on_event is None else contained(on_event))
    tree = Tree(root, Context(root.name, registry))
    lone: BaseException
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(tree.run)
            try:
                yield tree
            finally:
                # Shielded so that a cancellation does not take the place of what the body raised. It costs no time: a
                # cancellation reaches the tree itself, and the nursery would wait for that just the same.
                with trio.CancelScope(shield=True):
                    await tree.stop()
        return
    except BaseExceptionGroup as group:
        # A nursery wraps whatever leaves it. One error alone needs no wrapping.
        if len(group.exceptions) > 1:
            raise
        lone = group.exceptions[0]
    try:
        raise lone
    finally:
        del lone  # it holds this frame


def _check_grace(child: Child[Any]) -> None:
    if isinstance(child.run, Supervisor) and child.stop_grace < child.run.stop_budget:
        raise SpecError(
            f"{child.name}: a stop_grace of {child.stop_grace:g} s is less than its children have together, "
            f"{child.run.stop_budget:g} s; see Supervisor.as_child"
        )
