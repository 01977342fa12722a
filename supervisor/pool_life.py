"""One life of a pool: what `life` is to a supervisor, for children without order.

Responsible for the nursery of a pool and for each child's start, stop and restart, beside one another. Not responsible
for the template, nor for decisions: those are the same `roster`'s as a supervisor's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar, assert_never

import trio

from holloway.supervisor.context import Context
from holloway.supervisor.errors import (
    ActorDown,
    ChildStartError,
    GraceOverrun,
    PoolFull,
    SpecError,
    SupervisorError,
    shed,
)
from holloway.supervisor.events import ChildRestarting, Exit, State, SupervisorGaveUp
from holloway.supervisor.inbox import Inbox, in_order
from holloway.supervisor.life import give_up
from holloway.supervisor.policy import GiveUp, Leave, Regroup, ShutDown
from holloway.supervisor.ref import Cell, Ref
from holloway.supervisor.roster import Roster
from holloway.supervisor.spec import Child, Intensity
from holloway.supervisor.watcher import Incarnation

Key = TypeVar("Key", bound=Hashable)
Handle = TypeVar("Handle")


class Entry(Generic[Key, Handle]):
    """One key of a running pool."""

    __slots__ = ("cell", "decided", "key", "last_exit", "over", "pause", "problem", "run", "unwanted", "was_up")

    def __init__(self, key: Key, cell: Cell[Handle], run: Incarnation[Handle]) -> None:
        self.key = key
        self.cell = cell
        self.run = run  # the latest
        self.decided = trio.Event()  # the first start is over: `was_up`, or `problem`, or neither if the pool ended
        self.was_up = False
        self.problem: ChildStartError | None = None
        self.unwanted = False
        self.pause = trio.CancelScope()  # around the wait for a restart
        self.over = trio.Event()  # gone, or a zombie
        self.last_exit: Exit | None = None


class PoolLife(Generic[Key, Handle]):
    """One life of a pool.

    Ends are read by one loop, as in any supervisor. What takes time has a task of its own for each child: a start, a stop,
    a wait for a restart. The state in the roster says which of them has the child in hand.
    """

    def __init__(self, ctx: Context, limit: int, intensity: Intensity) -> None:
        self._ctx = ctx
        self._limit = limit
        self._intensity = intensity
        self.roster = Roster(intensity=intensity)
        self.entries: dict[Key, Entry[Key, Handle]] = {}
        self._by_name: dict[str, Entry[Key, Handle]] = {}
        self._inbox = Inbox()
        self._nursery: trio.Nursery
        self._ending = False
        self._failure: SupervisorError | None = None

    async def live(self, ready: Callable[[], None]) -> SupervisorError | None:
        """Call `ready`, supervise until told to stop, stop all. Returns why it gave up, or None."""
        with self._inbox:
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._heed_stopping)
                    ready()
                    while not self._ending:
                        await self._hear()
                    await self._stop_all()
                    nursery.cancel_scope.cancel()  # only `_heed_stopping` is left
            finally:
                self._close_books()
        return self._failure

    def check_room(self, key: Key) -> None:
        """Raises what `start` raises before anything is made."""
        if self._ending:
            raise ActorDown(self._ctx.path, "it is stopping")
        if key in self.entries:
            raise SpecError(f"{self._ctx.path} has a child for {key!r} already")
        if len(self.entries) >= self._limit:
            raise PoolFull(self._ctx.path, self._limit)

    async def start(self, key: Key, child: Child[Handle]) -> Ref[Handle]:
        """Add and start the child of a new key."""
        self.roster.add(child, forget=True)
        cell = self._ctx.registry.cell(f"{self._ctx.path}.{child.name}")
        entry = Entry(key, cell, self._new_run(child, cell))
        self.entries[key] = self._by_name[child.name] = entry
        self._nursery.start_soon(self._open, entry)
        try:
            await entry.decided.wait()
        finally:
            if not entry.decided.is_set():
                entry.run.abandon()
        if entry.problem is not None:
            raise entry.problem
        if not entry.was_up:
            raise ActorDown(self._ctx.path, "it is stopping")
        return Ref(cell)

    async def stop(self, key: Key) -> Exit | None:
        """Stop and forget the child of `key`, if there is one."""
        entry = self.entries.get(key)
        if entry is None:
            await trio.lowlevel.checkpoint()
            return None
        self._ask_to_stop(entry)
        await entry.over.wait()
        if not entry.run.ended.is_set():
            raise GraceOverrun(entry.cell.path, entry.run.child.stop_grace)
        return entry.last_exit

    def ref(self, key: Key) -> Ref[Handle]:
        """A ref to the child of `key`."""
        entry = self.entries.get(key)
        if entry is None:
            raise SpecError(f"{self._ctx.path} has no child for {key!r}")
        return Ref(entry.cell)

    # The loop

    async def _heed_stopping(self) -> None:
        await self._ctx.stopping.wait()
        self._end()

    def _end(self) -> None:
        self._ending = True
        self._inbox.wake()

    async def _hear(self) -> None:
        await self._inbox.wait()
        while (item := self._inbox.pop()) is not None:
            assert isinstance(item, Incarnation)
            self._hear_end(item)

    def _hear_end(self, run: Incarnation[Any]) -> None:
        entry = self._by_name[run.child.name]
        state = self.roster[run.child.name].state
        if state is State.RUNNING and not self._ending:
            how = entry.last_exit = run.reap()
            self._decide(entry, how.error)
        elif state is State.ZOMBIE:
            self._note_end(entry)
        # Otherwise the task that is starting or stopping it sees the end itself, or `_stop_all` will.

    async def _stop_all(self) -> None:
        """All at once: they have no order."""
        for entry in list(self.entries.values()):
            self._ask_to_stop(entry)
        for entry in list(self.entries.values()):
            await entry.over.wait()
        while self.entries:  # zombies: a nursery cannot be left before them
            await self._hear()

    def _close_books(self) -> None:
        """Nothing runs any more. After a cancellation from outside there are callers to answer and ends to report."""
        self._end()
        entries = list(self.entries.values())
        for run in in_order(entry.run for entry in entries if not entry.run.reaped):
            run.reap_cancelled()
        for entry in entries:
            entry.last_exit = entry.run.exit
            entry.decided.set()
            entry.over.set()

    # What it does to children

    def _new_run(self, child: Child[Handle], cell: Cell[Handle], *, automatic: bool = False) -> Incarnation[Handle]:
        number = self.roster.starting(child.name, automatic=automatic)
        order = self.roster[child.name].order
        return Incarnation(child, cell, self._ctx.registry, number=number, order=order, on_end=self._inbox.post_end)

    async def _open(self, entry: Entry[Key, Handle]) -> None:
        """The first start of a child, and the answer to whoever asked for it."""
        problem = await self._bring_up(entry)
        if problem is None:
            entry.was_up = True
        else:
            if not self._ending:
                entry.problem = problem
            self._give_back(entry, problem)
        entry.decided.set()

    async def _revive(self, entry: Entry[Key, Handle], due: float) -> None:
        """Wait until `due`, then start the child again."""
        with entry.pause as pause:
            await trio.sleep_until(due)
        if pause.cancel_called:
            return
        entry.run = self._new_run(entry.run.child, entry.cell, automatic=True)
        problem = await self._bring_up(entry)
        if problem is not None and (entry.run.abandoned or self._ending):
            self._give_back(entry, problem)
        elif problem is not None:
            self._decide(entry, problem)

    async def _bring_up(self, entry: Entry[Key, Handle]) -> ChildStartError | None:
        """See `entry.run` through its start. Returns the failure, which the roster has not been told of."""
        run = entry.run
        problem = await run.bring_up(self._nursery)
        if problem is None:
            self.roster.started(run.child.name, trio.current_time())
            if entry.unwanted:
                self._ask_to_stop(entry)
            elif run.ended.is_set():  # so soon that the loop may have heard of it before it was called running
                self._hear_end(run)
            return None
        if run.ended.is_set():
            entry.last_exit = run.reap()
        else:
            self._note_overrun(entry)
        run.report_failed_start(problem)
        return problem

    def _ask_to_stop(self, entry: Entry[Key, Handle]) -> None:
        entry.unwanted = True
        name = entry.run.child.name
        match self.roster[name].state:
            case State.STARTING:
                entry.run.abandon()
            case State.RUNNING:
                self.roster.stopping(name, comes_back=False)
                self._nursery.start_soon(self._take_down, entry)
            case State.WAITING | State.ZOMBIE:
                entry.pause.cancel()
                self.roster.withdraw(name)
                self._follow(entry)
            case State.STOPPING | State.STOPPED:
                pass

    async def _take_down(self, entry: Entry[Key, Handle]) -> None:
        if await entry.run.take_down():
            self._note_end(entry)
        else:
            self._note_overrun(entry)

    def _note_end(self, entry: Entry[Key, Handle]) -> None:
        """The end of a child that was made to end: nothing is decided by it."""
        how = entry.last_exit = entry.run.reap()
        self.roster.ended(entry.run.child.name, error=how.error)
        shed(how.error)
        self._follow(entry)

    def _note_overrun(self, entry: Entry[Key, Handle]) -> None:
        self.roster.overran(entry.run.child.name)
        entry.run.report_overrun()
        entry.over.set()

    def _give_back(self, entry: Entry[Key, Handle], problem: ChildStartError) -> None:
        """A start came to nothing, and there will be no other."""
        self.roster.start_failed(entry.run.child.name, problem, forget=True)
        self._follow(entry)

    def _follow(self, entry: Entry[Key, Handle]) -> None:
        """Drop the entry if the roster has, or wait for the restart if there is to be one."""
        name = entry.run.child.name
        if name not in self.roster:
            del self.entries[entry.key]
            del self._by_name[name]
            entry.over.set()
        elif self.roster[name].state is State.WAITING:
            entry.pause = trio.CancelScope()
            if entry.over.is_set():  # it was a zombie
                entry.over = trio.Event()
            self._nursery.start_soon(self._revive, entry, self.roster[name].due)

    def _decide(self, entry: Entry[Key, Handle], error: Exception | None) -> None:
        """Ask the roster what follows from an end that nobody asked for, and see to it."""
        now = trio.current_time()
        path, registry = entry.cell.path, self._ctx.registry
        # A stream for each end: restarts that fail in the same tick do so in any order.
        spread = registry.rng(f"{path}#{entry.run.number}/backoff").random()
        decision = self.roster.exited(entry.run.child.name, error=error, now=now, spread=spread)
        match decision:
            case Leave() | ShutDown():
                shed(error)
            case Regroup(_, _, delay_s):
                shed(error)
                registry.publish(ChildRestarting(path, now, delay_s, path))
            case GiveUp(spent):
                self._failure = give_up(self._ctx.path, self._intensity, spent)
                registry.publish(SupervisorGaveUp(self._ctx.path, now, self._failure))
                self._end()
            case _:
                assert_never(decision)
        self._follow(entry)
