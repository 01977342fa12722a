"""Many children from one template: OTP's `simple_one_for_one`.

Children are addressed by a key, have no order, start and stop beside one another, and leave no trace when they end for
good. Starting, stopping or losing one costs the same in a pool of ten and of ten thousand.

Restart types, backoff, graces and the restart budget are those of any supervisor; the budget is the whole pool's, so
choose it for the number of children. Not responsible for which keys there should be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import trio

from holloway.supervisor.context import Context
from holloway.supervisor.errors import (
    ActorDown,
    SpecError,
)
from holloway.supervisor.events import (
    ChildInfo,
    Exit,
)
from holloway.supervisor.pool_life import PoolLife
from holloway.supervisor.ref import Ref
from holloway.supervisor.spec import (
    DEFAULT_BACKOFF,
    DEFAULT_INTENSITY,
    AutoShutdown,
    Backoff,
    Child,
    Intensity,
    Restart,
    check_name,
    check_significance,
)

Key = TypeVar("Key", bound=Hashable)
Handle = TypeVar("Handle")


class Pool(Generic[Key, Handle]):
    """Up to `limit` children, each made by `template(key)`. An actor whose handle is itself; see `dynamic`.

    Ready at once, and empty; started again by its parent, empty again. Raises `IntensityExceeded` as a supervisor does.
    `template` names the child: one name for each key, without dots. It may raise, into `start`.
    """

    def __init__(
        self,
        template: Callable[[Key], Child[Handle]],
        *,
        name: str,
        limit: int,
        intensity: Intensity = DEFAULT_INTENSITY,
    ) -> None:
        check_name(name)
        if limit < 1:
            raise SpecError(f"{name}: a pool of {limit} children holds none")
        self.name = name
        self.limit = limit
        self.intensity = intensity
        self._template = template
        self._life: PoolLife[Key, Handle] | None = None

    def __repr__(self) -> str:
        return f"<Pool {self.name} {len(self.keys())} of {self.limit}>"

    def as_child(
        self, *, restart: Restart = Restart.PERMANENT, backoff: Backoff = DEFAULT_BACKOFF
    ) -> Child[Pool[Key, Handle]]:
        """This pool as a child of a supervisor: with all the time it needs to stop its own."""
        return Child(name=self.name, run=self, restart=restart, backoff=backoff, stop_grace=math.inf)

    async def __call__(
        self, ctx: Context, *, task_status: trio.TaskStatus[Pool[Key, Handle]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Supervise until told to stop. Raises `SpecError` if this very object is running already."""
        if self._life is not None:
            raise SpecError(f"{self.name} is running already: one pool stands in one place")
        self._life = PoolLife(ctx, self.limit, self.intensity)
        try:
            failure = await self._life.live(lambda: task_status.started(self))
        finally:
            self._life = None
        if failure is not None:
            raise failure

    async def start(self, key: Key) -> Ref[Handle]:
        """Start the child of `key`; it is ready when this returns. Any number of starts may be under way.

        Raises `SpecError` (the key, or the name, is there already), `PoolFull`, `ChildStartError`, `ActorDown` (the pool
        is down or stopping). Cancelled before the child is ready, the start is undone.
        """
        life = self._running()
        life.check_room(key)
        child = self._template(key)
        check_significance(child, AutoShutdown.NEVER)
        return await life.start(key, child)

    async def stop(self, key: Key) -> Exit | None:
        """Stop the child of `key`, forget it, and return how it ended; None if there is none (it may just have ended).

        Raises `GraceOverrun` if it runs on after its grace and a cancellation (it keeps its place until it ends), and
        `ActorDown`. Cancelling the caller does not undo it.
        """
        return await self._running().stop(key)

    def ref(self, key: Key) -> Ref[Handle]:
        """A ref to the child of `key`. Raises `SpecError` if there is none, `ActorDown` if the pool is down."""
        return self._running().ref(key)

    def keys(self) -> tuple[Key, ...]:
        """The keys that have a child, in the order they were started. A down pool has none."""
        return () if self._life is None else tuple(self._life.entries)

    def children(self) -> tuple[ChildInfo, ...]:
        """Every child and its state, in the order of `keys`."""
        return () if self._life is None else self._life.roster.children()

    def _running(self) -> PoolLife[Key, Handle]:
        if self._life is None:
            raise ActorDown(self.name)
        return self._life


def dynamic(
    template: Callable[[Key], Child[Handle]], *, name: str, limit: int, intensity: Intensity = DEFAULT_INTENSITY
) -> Pool[Key, Handle]:
    """A pool of up to `limit` children called `name`, the child of a key made by `template(key)`."""
    return Pool(template, name=name, limit=limit, intensity=intensity)
