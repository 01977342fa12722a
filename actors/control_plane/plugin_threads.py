"""Threads for code that is not ours and may never come back.

A call waits for a thread, has its time, and is given up when that is over; the thread itself cannot be ended. What was given up counts for
its plugin and for who asked until it comes back, and for nobody else: so whoever has one plugin hang keeps no other from running, and no more
threads are left behind than all plugins together may have. Not responsible for what is called, nor for what it raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from holloway.protocols.errors import LocalError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ThreadLimits:
    """`at_once`: calls that somebody waits for. `each_plugin`, `each_person`: calls that have not come back, given up or not.

    `wait_s`: how long a call waits for a thread; `run_s`: how long it has from when it began.
    """

    at_once: int
    each_plugin: int
    each_person: int
    wait_s: float
    run_s: float


@dataclass(slots=True, eq=False)
class _Call:
    command: str
    person: str
    may_begin: trio.Event = field(default_factory=trio.Event)
    is_given_up: bool = False
    has_begun: bool = False

    @property
    def plugin(self) -> str:
        return plugin_of(self.command)


class PluginThreads:
    """The threads of one broker or agent. Who waits longest is first among those that may begin."""

    def __init__(self, limits: ThreadLimits) -> None:
        self._limits = limits
        self._limiter = trio.CapacityLimiter(math.inf)
        """Of our own, since we count ourselves: nobody else who needs a thread waits for a plugin."""
        self._waiting: list[_Call] = []
        self._out: set[_Call] = set()

    async def run(self, work: Callable[[], T], command: str, person: str) -> T:
        """What `work` returns. Raises what it does, and LocalError when it has not begun or not ended in time. When we are cancelled
        it is given up at once.
        """
        call = _Call(command, person)
        await self._wait_for_thread(call)
        try:
            with trio.move_on_after(self._limits.run_s):
                return await self._in_thread(work, call)
        finally:
            call.is_given_up = True  # of no consequence to one that has come back
            self._let_begin()
        raise LocalError(f"{command} took more than {self._limits.run_s:g} s", "nobody waits any longer for it")

    async def _wait_for_thread(self, call: _Call) -> None:
        self._waiting.append(call)
        self._let_begin()
        try:
            with trio.move_on_after(self._limits.wait_s):
                await call.may_begin.wait()
            await trio.lowlevel.checkpoint_if_cancelled()  # the last place where it can be taken back
        except BaseException:
            self._came_back(call)
            raise
        finally:
            if call in self._waiting:
                self._waiting.remove(call)
        if call not in self._out:
            raise LocalError(f"{call.command} has not begun: no thread is free", self._why_not(call), "try again later")

    async def _in_thread(self, work: Callable[[], T], call: _Call) -> T:
        token = trio.lowlevel.current_trio_token()

        def run() -> T:
            call.has_begun = True
            try:
                return work()
            finally:
                with suppress(trio.RunFinishedError):  # it came back when nobody was there any more
                    token.run_sync_soon(self._came_back, call)

        try:
            return await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._limiter)
        except RuntimeError as error:
            if call.has_begun:
                raise
            self._came_back(call)
            raise LocalError(
                f"{call.command} has not begun", "the system gives us no thread", "try again later"
            ) from error

    def _came_back(self, call: _Call) -> None:
        self._out.discard(call)
        self._let_begin()

    def _let_begin(self) -> None:
        for call in list(self._waiting):
            if not self._why_not(call):
                self._waiting.remove(call)
                self._out.add(call)
                call.may_begin.set()

    def _why_not(self, call: _Call) -> str:
        """Why it may not begin now, in words; empty when it may."""
        of_plugin = sum(each.plugin == call.plugin for each in self._out)
        if of_plugin >= self._limits.each_plugin:
            return f"{of_plugin} commands of {call.plugin} have not come back"
        of_person = sum(each.person == call.person for each in self._out)
        if of_person >= self._limits.each_person:
            return f"{of_person} commands that {call.person} gave have not come back"
        awaited = sum(not each.is_given_up for each in self._out)
        return f"{awaited} other commands of plugins are running" if awaited >= self._limits.at_once else ""


def plugin_of(command: str) -> str:
    """The plugin that has that command."""
    return command.partition(".")[0]
