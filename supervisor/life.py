"""One life of a supervisor: the loop that carries out what its roster decides.

Responsible for the nursery, for starting and stopping children one at a time and in order, and for answering calls
between two ends. Not responsible for decisions (`roster`) nor for the run of one child (`watcher`).

How an end flows: a child's last step posts it to the inbox ─► the loop reads it ─► the roster decides ─► the loop stops
and later starts whom the decision names ─► next item. Nothing else touches the roster, except `remove`, which only
takes out what has no task.

Cancellation is not a stop. A stop is asked for with `ctx.stopping` and goes in reverse order, child by child, each with
its grace. A cancelled scope around the tree unwinds all tasks at once, as Trio's do; the ends are still reported.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, assert_never

import trio

from holloway.supervisor.context import Context
from holloway.supervisor.errors import (
    ActorDown,
    ChildStartError,
    GraceOverrun,
    IntensityExceeded,
    SupervisorError,
    shed,
)
from holloway.supervisor.events import (
    ChildInfo,
    ChildRestarting,
    Exit,
    State,
    SupervisorGaveUp,
)
from holloway.supervisor.inbox import Call, Inbox, in_order
from holloway.supervisor.policy import GiveUp, Leave, Regroup, ShutDown
from holloway.supervisor.ref import Cell, Ref
from holloway.supervisor.roster import Roster
from holloway.supervisor.spec import Child, Intensity
from holloway.supervisor.watcher import Incarnation

Handle = TypeVar("Handle")
Result = TypeVar("Result")


class Life:
    """One life of one supervisor, from its start to its end."""

    def __init__(self, ctx: Context, roster: Roster, intensity: Intensity) -> None:
        self._ctx = ctx
        self._roster = roster
        self._intensity = intensity
        self._inbox = Inbox()
        self._nursery: trio.Nursery
        self._cells: dict[str, Cell[Any]] = {}  # held, so that the last exit of a stopped child is not forgotten
        self._runs: dict[str, Incarnation[Any]] = {}  # all that have a task
        self._starting: Incarnation[Any] | None = None
        self._serving: Call[Any] | None = None
        self._is_up = False
        self._ending = False
        self._failure: SupervisorError | None = None

    async def live(self, children: Sequence[Child[Any]], ready: Callable[[], None]) -> SupervisorError | None:
        """Start `children`, call `ready`, supervise until told to stop or done, stop all.

        Returns why it gave up, or None.
        """
        with self._inbox:
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._heed_stopping)
                    await self._start_all(children)
                    if not self._ending:
                        self._is_up = True
                        ready()
                        await self._serve()
                    await self._stop_all()
                    nursery.cancel_scope.cancel()  # only `_heed_stopping` is left
            finally:
                self._close_books()
        return self._failure

    # Calls. Any task may make them; the loop carries them out, one by one.

    async def start(self, child: Child[Handle]) -> Ref[Handle]:
        """Add `child` as the last in order and start it."""
        call = self._call(partial(self._start_new, child))
        try:
            return await call.answer()
        finally:
            # If the caller was cancelled: the child is up by now, and stays, or it is not wanted.
            call.withdrawn = True
            if self._serving is call and self._starting is not None:
                self._starting.abandon()

    async def stop(self, name: str) -> Exit:
        """Stop the child and keep its spec."""
        return await self._call(partial(self._stop, name)).answer()

    async def restart(self, name: str) -> None:
        """Stop the child if it runs, and start it."""
        await self._call(partial(self._restart, name)).answer()

    def remove(self, name: str) -> None:
        """Forget a stopped child."""
        if self._ending or not self._is_up:
            raise ActorDown(self._ctx.path, "it is stopping" if self._ending else "it is starting")
        self._roster.remove(name)
        self._tidy(name)

    def children(self) -> tuple[ChildInfo, ...]:
        """All children in start order."""
        return self._roster.children()

    def _call(self, operation: Callable[[], Awaitable[Result]]) -> Call[Result]:
        call = Call(operation, path=self._ctx.path)
        if self._ending:
            call.refuse()
        else:
            self._inbox.post_call(call)
        return call

    # The loop

    async def _heed_stopping(self) -> None:
        await self._ctx.stopping.wait()
        self._end()

    def _end(self) -> None:
        """Let go of whatever is being waited for, and stop."""
        self._ending = True
        if self._starting is not None:
            self._starting.abandon()
        self._inbox.wake()

    def _close_books(self) -> None:
        """Nothing runs any more. After a cancellation from outside there are callers to answer and ends to report."""
        self._end()
        if self._serving is not None:
            self._serving.refuse()
        for run in in_order(self._runs.values()):
            run.reap_cancelled()
        self._inbox.listen()
        while (item := self._inbox.pop()) is not None:
            self._hear_at_end(item)

    async def _start_all(self, children: Sequence[Child[Any]]) -> None:
        for child in children:
            self._roster.add(child)
        for child in children:
            if self._ending:
                return
            problem = await self._bring_up(child.name)
            if problem is not None:
                self._roster.start_failed(child.name, problem, forget=False)
                if not self._ending:
                    self._failure = problem
                    self._end()

    async def _serve(self) -> None:
        while not self._ending:
            await self._inbox.wait(self._roster.wake_at())
            while (item := self._inbox.pop()) is not None:
                if self._ending:
                    self._hear_at_end(item)
                elif isinstance(item, Incarnation):
                    await self._hear_end(item)
                else:
                    await self._answer(item)
            name = self._roster.next_start(trio.current_time())
            if name is not None and not self._ending:
                problem = await self._bring_up(name, automatic=True)
                if problem is not None and self._ending:
                    self._roster.start_failed(name, problem, forget=False)
                elif problem is not None:
                    await self._decide(name, problem)

    async def _stop_all(self) -> None:
        for name in self._roster.stop_order():
            await self._take_down(name, comes_back=False)
        while self._runs:  # zombies: a nursery cannot be left before them
            await self._inbox.wait()
            while (item := self._inbox.pop()) is not None:
                self._hear_at_end(item)

    async def _answer(self, call: Call[Any]) -> None:
        if call.withdrawn:
            return
        self._serving = call
        await call.serve()
        self._serving = None

    async def _hear_end(self, run: Incarnation[Any]) -> None:
        name = run.child.name
        if self._roster[name].state is State.ZOMBIE:
            self._note_end(run)
        else:
            how = self._bury(run)
            await self._decide(name, how.error)
            self._tidy(name)

    def _hear_at_end(self, item: Incarnation[Any] | Call[Any]) -> None:
        """No decisions any more: calls are refused, and ends noted, save those that `_stop_all` will come to."""
        if isinstance(item, Call):
            item.refuse()
        elif self._roster[item.child.name].state is not State.RUNNING:
            self._note_end(item)

    # What it does to children

    async def _bring_up(self, name: str, *, automatic: bool = False) -> ChildStartError | None:
        """Start a child that has no task. Returns the failure, which the roster has not been told of."""
        child = self._roster[name].child
        number = self._roster.starting(name, automatic=automatic)
        registry = self._ctx.registry
        cell = self._cells.setdefault(name, registry.cell(f"{self._ctx.path}.{name}"))
        run = Incarnation(
            child, cell, registry, number=number, order=self._roster[name].order, on_end=self._inbox.post_end
        )
        self._runs[name] = self._starting = run
        problem = await run.bring_up(self._nursery)
        self._starting = None
        if problem is None:
            self._roster.started(name, trio.current_time())
            return None
        if run.ended.is_set():
            self._bury(run)
        else:
            self._roster.overran(name)
            run.report_overrun()
        run.report_failed_start(problem)
        return problem

    async def _take_down(self, name: str, *, comes_back: bool) -> Exit | None:
        """Stop a running child. Returns how it ended, or None if it is a zombie now."""
        run = self._runs[name]
        self._roster.stopping(name, comes_back=comes_back)
        if await run.take_down():
            return self._note_end(run)
        self._roster.overran(name)
        run.report_overrun()
        return None

    def _note_end(self, run: Incarnation[Any]) -> Exit:
        """The end of a child that was made to end: nothing is decided by it."""
        how = self._bury(run)
        self._roster.ended(run.child.name, error=how.error)
        shed(how.error)
        self._tidy(run.child.name)
        return how

    def _bury(self, run: Incarnation[Any]) -> Exit:
        del self._runs[run.child.name]
        return run.reap()

    def _tidy(self, name: str) -> None:
        if name not in self._roster:
            self._cells.pop(name, None)

    async def _decide(self, name: str, error: Exception | None) -> None:
        """Ask the roster what follows from an end that nobody asked for, and do it."""
        now = trio.current_time()
        path = self._ctx.path
        decision = self._roster.exited(name, error=error, now=now, spread=self._ctx.rng.random())
        match decision:
            case Leave():
                shed(error)
            case Regroup(stop, restart, delay_s):
                shed(error)
                for each in restart:
                    self._ctx.registry.publish(ChildRestarting(f"{path}.{each}", now, delay_s, f"{path}.{name}"))
                for each in stop:
                    await self._take_down(each, comes_back=each in restart)
            case ShutDown():
                shed(error)
                self._end()
            case GiveUp(spent):
                self._failure = give_up(path, self._intensity, spent)
                self._ctx.registry.publish(SupervisorGaveUp(path, now, self._failure))
                self._end()
            case _:
                assert_never(decision)

    # The operations behind the calls

    async def _start_new(self, child: Child[Handle]) -> Ref[Handle]:
        self._roster.add(child)
        problem = await self._bring_up(child.name)
        if problem is None:
            return Ref(self._cells[child.name])
        raise self._start_refused(child.name, problem, forget=True)

    async def _stop(self, name: str) -> Exit:
        member = self._roster[name]
        cell = self._cells[name]
        if member.state is State.RUNNING:
            how = await self._take_down(name, comes_back=False)
        else:
            self._roster.withdraw(name)
            how = None if member.state is State.ZOMBIE else cell.last_exit
        self._tidy(name)
        if how is None:
            raise GraceOverrun(cell.path, member.child.stop_grace)
        return how

    async def _restart(self, name: str) -> None:
        member = self._roster[name]
        if member.state is State.RUNNING:
            await self._take_down(name, comes_back=True)
        if member.state is State.ZOMBIE:
            raise GraceOverrun(self._cells[name].path, member.child.stop_grace)
        problem = await self._bring_up(name)
        if problem is not None:
            raise self._start_refused(name, problem, forget=False)

    def _start_refused(self, name: str, problem: ChildStartError, *, forget: bool) -> SupervisorError:
        self._roster.start_failed(name, problem, forget=forget)
        self._tidy(name)
        return ActorDown(self._ctx.path, "it is stopping") if self._ending else problem


def give_up(path: str, intensity: Intensity, spent: Sequence[tuple[str, Exception | None]]) -> IntensityExceeded:
    """The error of a supervisor at `path` whose budget went to the ends in `spent`."""
    causes = [
        ActorDown(f"{path}.{name}", "it returned, though it is permanent") if error is None else error
        for name, error in spent
    ]
    return IntensityExceeded(path, intensity.restarts, intensity.period, causes)
