"""Asyncio work for Trio tasks: one loop for all etcd handles of a Trio run.

gRPC wakes every asyncio loop that it knows through one pipe, and Trio lets one task alone wait for a pipe; so the
handles of one run share one loop. It lives in a system task from the first handle's opening to the last one's closing,
and is nobody's child: a handle may be used by any task, and opening one wraps no error into a group.

Responsible for that loop, and for what a Trio task may do to work in it: wait, stop waiting, cancel. NOT responsible
for gRPC. trio-asyncio is imported with the first handle and not before: importing it patches asyncio for the whole
process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import trio

from holloway.actors.registry.limits import closed

T = TypeVar("T")

log = logging.getLogger("holloway.registry")


class Errand(Generic[T]):
    """Asyncio work under way. Any Trio task may wait for it, again and again; to stop waiting does not stop it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, T],
        when_done: Callable[[Errand[T]], None] = lambda _: None,
    ) -> None:
        self._done = trio.Event()
        self._when_done = when_done
        self._task = loop.create_task(work)
        self._task.add_done_callback(self._finish)

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    async def wait(self) -> None:
        """Return when it has ended, however it did."""
        await self._done.wait()

    def result(self) -> T:
        """What it returned; raises what it raised, and RegistryError if it was cancelled. To be called after `wait`."""
        if self._task.cancelled():
            raise closed()
        return self._task.result()

    def cancel(self) -> None:
        """Ask it to end."""
        self._task.cancel()

    @property
    def has_succeeded(self) -> bool:
        return self.is_done and not self._task.cancelled() and self._task.exception() is None

    def _finish(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # seen, so that asyncio does not complain about one that nobody came for
        self._done.set()
        self._when_done(self)


class Errands:
    """The errands of one handle, all of which end with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.under_way: set[Errand[Any]] = set()
        self.is_open = True

    def start(self, work: Coroutine[Any, Any, T]) -> Errand[T]:
        """Begin. Raises RegistryError when the handle is closed."""
        if not self.is_open:
            work.close()
            raise closed()
        errand = Errand(self._loop, work, self.under_way.discard)
        self.under_way.add(errand)
        return errand

    async def run(self, work: Coroutine[Any, Any, T], last_word_s: float) -> T:
        """Do it, and return or raise what it does.

        Cancelled, it waits `last_word_s` for the result, and returns that if it came; else it cancels the work. Raises
        RegistryError when the handle is closed meanwhile.
        """
        errand = self.start(work)
        try:
            await errand.wait()
        except trio.Cancelled:
            with trio.move_on_after(last_word_s, shield=True):
                await errand.wait()
            await end(errand)
            if not errand.has_succeeded:
                raise
        return errand.result()

    async def end(self) -> None:
        """Let nothing begin any more, and end what is under way."""
        self.is_open = False
        await end(*self.under_way)


async def end(*errands: Errand[Any]) -> None:
    """Cancel them, and return when all have ended."""
    with trio.CancelScope(shield=True):
        for errand in errands:
            errand.cancel()
        for errand in errands:
            await errand.wait()


class _Shared:
    """The loop of one Trio run, and how many handles use it."""

    def __init__(self) -> None:
        self.users = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.opened = trio.Event()
        self.unused = trio.Event()
        self.ended = trio.Event()

    async def live(self) -> None:
        import trio_asyncio

        try:
            async with trio_asyncio.open_loop() as loop:
                loop.set_exception_handler(_report)
                self.loop = loop
                self.opened.set()
                await self.unused.wait()
        finally:
            self.opened.set()
            self.ended.set()


_of_this_run: trio.lowlevel.RunVar[_Shared | None] = trio.lowlevel.RunVar("holloway.etcd_loop", default=None)


@asynccontextmanager
async def shared_loop() -> AsyncIterator[asyncio.AbstractEventLoop]:
    """The loop, for as long as the context lasts. Use `Errand` to work in it."""
    shared = _of_this_run.get()
    while shared is not None and shared.unused.is_set():
        await shared.ended.wait()  # two at once would wait for one pipe
        shared = _of_this_run.get()
    if shared is None:
        shared = _Shared()
        _of_this_run.set(shared)
        trio.lowlevel.spawn_system_task(shared.live)
    shared.users += 1
    try:
        await shared.opened.wait()
        assert shared.loop is not None
        yield shared.loop
    finally:
        shared.users -= 1
        if shared.users == 0:
            shared.unused.set()
            with trio.CancelScope(shield=True):
                await shared.ended.wait()
            if _of_this_run.get() is shared:
                _of_this_run.set(None)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """In place of trio-asyncio's, which would end the loop, and with it the program."""
    log.error("asyncio: %s", context.get("message"), exc_info=context.get("exception"))
