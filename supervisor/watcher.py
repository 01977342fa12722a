"""One run of one child: its task, how it becomes ready, how it is made to stop, and how it ended.

This is the only module where a crash is caught. The watcher turns `Exception` into a value and nothing else:
`Cancelled`, `KeyboardInterrupt` and `SystemExit` belong to whoever runs the tree and pass. A group that mixes the two is
split.

Not responsible for what follows an end (`roster`), nor for the order in which ends are heard (`inbox`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar, overload

import trio

from holloway.supervisor.context import LOG, Context, Registry
from holloway.supervisor.errors import ChildStartError, shed
from holloway.supervisor.events import (
    ChildExited,
    ChildOverranGrace,
    ChildStarted,
    ChildStartFailed,
    Event,
    Exit,
    ExitReason,
)
from holloway.supervisor.ref import Cell
from holloway.supervisor.spec import LINGER_S, Child

Handle = TypeVar("Handle")

STACKS_MAX = 20  # tasks of one overrunning child whose stacks are shown


class Incarnation(trio.TaskStatus[Handle]):
    """One run of one child. It is also the `task_status` that its actor is given.

    `nursery.start` would be shorter, but it runs the child inside the cancel scopes of whoever starts it until it is
    ready, and raises what it raises into them. Here a child has one scope and one watcher from first to last.

    `on_end(self)` is called once, in the last step of the child's task; it must not raise or wait.
    """

    def __init__(
        self,
        child: Child[Handle],
        cell: Cell[Handle],
        registry: Registry,
        *,
        number: int,
        order: int,
        on_end: Callable[[Incarnation[Any]], None],
    ) -> None:
        self.child = child
        self.cell = cell
        self.context = Context(cell.path, registry, incarnation=number)
        self.number = number
        self.order = order  # among its siblings
        self.scope = trio.CancelScope()
        self.ready = False
        self.abandoned = False  # whoever wanted it started does not want it any more
        self.reaped = False  # its supervisor knows of its end
        self.exit: Exit | None = None
        self.ended = trio.Event()
        self._settled = trio.Event()  # ready, ended or abandoned: the wait for readiness is over
        self._told_to_stop = False
        self._late = False
        self._task: trio.lowlevel.Task | None = None
        self._on_end = on_end
        self._publish = registry.publish

    # The child's side

    @overload
    def started(self: trio.TaskStatus[None]) -> None: ...
    @overload
    def started(self, value: Handle) -> None: ...
    def started(self, value: Any = None) -> None:
        """The actor is ready, and `value` is its handle. Once: a second call raises `RuntimeError`, as Trio's does."""
        if self.ready:
            raise RuntimeError("called 'started' twice on the same task status")
        if self.abandoned or self._told_to_stop:  # too late: nobody waits for it any more
            return
        self.cell.bind(value)
        self.ready = True
        self._settled.set()
        self._publish(ChildStarted(self.cell.path, trio.current_time(), self.number))

    async def watch(self) -> None:
        """Run the actor to its end. The body of the child's task."""
        self._task = trio.lowlevel.current_task()
        try:
            with self.scope:
                await self.child.run(self.context, task_status=self)
        except Exception as error:  # noqa: BLE001 - the one place where the crash of an actor becomes a value
            self._end("failed", error)
        except BaseExceptionGroup as group:
            crashes, others = group.split(Exception)
            self._end("stopped" if crashes is None else "failed", crashes)
            assert others is not None  # or it would have been an `Exception`
            raise others from None
        except BaseException:
            self._end("stopped", None)
            raise
        else:
            self._end(("killed_late" if self._late else "stopped") if self._told_to_stop else "returned", None)

    def _end(self, reason: ExitReason, error: Exception | None) -> None:
        self._task = None
        self.exit = Exit(reason, error, trio.current_time(), self.number)
        self.cell.unbind(self.exit)
        self._settled.set()
        self.ended.set()
        self._on_end(self)

    # The supervisor's side

    async def bring_up(self, nursery: trio.Nursery) -> ChildStartError | None:
        """Spawn the child in `nursery` and wait until it is ready.

        Returns why it is not, if it is not. It has then been taken down and has ended, or `ended` is not set and it is a
        zombie.
        """
        nursery.start_soon(self.watch, name=self.cell.path)
        with trio.move_on_after(self.child.start_timeout):
            await self._settled.wait()
        if self.ready:
            return None
        if self.exit is not None and self.exit.error is not None:
            why = "it failed"
        elif self.abandoned:
            why = "it was not wanted any more"
        elif self.exit is not None:
            why = "it returned before it was ready"
        else:
            why = f"it was not ready within {self.child.start_timeout:g} s"
        await self.take_down()
        return self._problem(why)

    def _problem(self, why: str) -> ChildStartError:
        problem = ChildStartError(self.cell.path, why)
        problem.__cause__ = None if self.exit is None else self.exit.error
        return problem

    def abandon(self) -> None:
        """Nobody wants the child any more: if it is not ready yet, `bring_up` takes it down and returns."""
        if not self.ready:
            self.abandoned = True
            self._settled.set()

    async def take_down(self) -> bool:
        """Stop the child in two steps: ask it to leave, if it listens; cancel it when its grace is over.

        True once it has ended. False if it runs on `LINGER_S` after both: a zombie.
        """
        patience_s = self.child.stop_grace + LINGER_S
        if not self.ended.is_set():
            self._told_to_stop = True
            if self.context.heeds_stopping:
                self.context.stopping.set()
                with trio.move_on_after(self.child.stop_grace):
                    await self.ended.wait()
                self._late = not self.ended.is_set()
                patience_s = LINGER_S
        self.scope.cancel()
        with trio.move_on_after(patience_s):
            await self.ended.wait()
        self._late = self._late or not self.ended.is_set()
        return self.ended.is_set()

    def reap(self) -> Exit:
        """Take note of the end, as an event if the child had been ready. Returns how it ended."""
        assert self.exit is not None
        self.reaped = True
        if self.ready:
            self._publish(ChildExited(self.cell.path, self.exit.at, self.exit))
        return self.exit

    def reap_cancelled(self) -> None:
        """Take note of an end that a cancellation from outside has brought, when no loop is left to ask what follows."""
        how = self.reap()
        if how.error is not None and not self.ready:
            self.report_failed_start(self._problem("it failed while it was cancelled"))
        shed(how.error)

    def report_failed_start(self, problem: ChildStartError) -> None:
        """Say why the child did not become ready, unless nobody wanted it and it went quietly."""
        if problem.__cause__ is not None or not self.abandoned:
            self._publish(ChildStartFailed(self.cell.path, trio.current_time(), self.number, problem))

    def report_overrun(self) -> None:
        """Say, with stacks, that the child runs on after it was cancelled."""
        self._publish(ChildOverranGrace(self.cell.path, trio.current_time(), self.number, self._stacks()))

    def _stacks(self) -> str:
        """Where the tasks of the child stand, outermost first."""
        stacks: list[str] = []
        tasks = [] if self._task is None else [self._task]
        while tasks and len(stacks) < STACKS_MAX:
            task = tasks.pop(0)
            frames = traceback.StackSummary.extract(task.iter_await_frames())
            stacks.append(f"task {task.name}\n{''.join(frames.format())}")
            for nursery in task.child_nurseries:
                tasks += sorted(nursery.child_tasks, key=lambda child: child.name)
        return "".join(stacks)


def contained(subscriber: Callable[[Event], None]) -> Callable[[Event], None]:
    """`subscriber`, made unable to hurt the tree it watches: what it raises is logged."""

    def deliver(event: Event) -> None:
        try:
            subscriber(event)
        except Exception:  # noqa: BLE001 - a subscriber is not part of the tree: its bugs are logged, not supervised
            LOG.exception("a subscriber failed on %s", type(event).__name__)

    return deliver
