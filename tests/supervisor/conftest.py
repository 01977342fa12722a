"""A stage for the supervision tests: actors that do as they are told, and a journal of what they did.

A puppet writes `+name` when it begins, `=name` when it is ready and `-name` when it is over, so an order of starts and
stops reads as one line of text. Everything runs under MockClock.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from holloway.supervisor import Backoff, Child, Supervisor, open_tree


class Puppet:
    """An actor whose life is in the hands of a test. Its handle is itself."""

    def __init__(self, name, journal):
        self.name = name
        self.journal = journal
        self.starts_to_fail = 0  # this many of the next starts raise OSError
        self.start_s = 0.0
        self.is_mute = False  # returns without ever being ready
        self.drain_s = None  # heeds `ctx.stopping`, and takes this long to leave
        self.shield_s = 0.0  # cleans up for this long, whatever is cancelled
        self.cleanup_error = None
        self.ctx = None
        self._order = None
        self._told = None

    async def __call__(self, ctx, *, task_status):
        self.ctx = ctx
        self._order, self._told = None, trio.Event()
        self.journal.append(f"+{self.name}")
        try:
            if self.start_s:
                await trio.sleep(self.start_s)
            if self.starts_to_fail:
                self.starts_to_fail -= 1
                raise OSError(f"{self.name} cannot start")
            if self.is_mute:
                return
            task_status.started(self)
            self.journal.append(f"={self.name}")
            await self._obey(ctx)
        finally:
            if self.shield_s:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.shield_s)
            self.journal.append(f"-{self.name}")
            if self.cleanup_error is not None:
                raise self.cleanup_error

    async def _obey(self, ctx):
        if self.drain_s is None:
            await self._told.wait()
        else:
            async with trio.open_nursery() as nursery:

                async def drain():
                    await ctx.stopping.wait()
                    await trio.sleep(self.drain_s)
                    self._told.set()

                nursery.start_soon(drain)
                await self._told.wait()
                nursery.cancel_scope.cancel()
        if isinstance(self._order, BaseException):
            raise self._order

    def crash(self, error=None):
        """Raise, in the next tick."""
        self._order = ValueError(self.name) if error is None else error
        self._told.set()

    def finish(self):
        """Return, in the next tick."""
        self._told.set()


class Stage:
    """Puppets by name, what they did, and what the tree said of it."""

    def __init__(self):
        self.journal = []
        self.events = []
        self.puppets = {}

    def __getitem__(self, name):
        return self.puppets.setdefault(name, Puppet(name, self.journal))

    def child(self, name, **spec):
        """A child of that name, its backoff exactly one second unless the test says otherwise."""
        spec.setdefault("backoff", Backoff(initial=1, factor=1, jitter=0))
        return Child(name=name, run=self[name], **spec)

    def supervisor(self, children, name="root", **spec):
        """A supervisor of these children; a word stands for children of one letter each."""
        return Supervisor([self.child(c) if isinstance(c, str) else c for c in children], name=name, **spec)

    @asynccontextmanager
    async def tree(self, children, **spec):
        """A running tree with these children below its root."""
        async with open_tree(self.supervisor(children, **spec), on_event=self.events.append) as tree:
            yield tree

    def took(self):
        """What the puppets did since this was last asked."""
        line = " ".join(self.journal)
        self.journal.clear()
        return line

    def told(self, kind):
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    @staticmethod
    async def settle(seconds=0.0):
        """Let everything happen that can, and `seconds` more."""
        await trio.testing.wait_all_tasks_blocked()
        if seconds:
            await trio.sleep(seconds)
            await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def stage():
    """A fresh stage. Async tests take `autojump_clock` too: time jumps to the next deadline when nothing can run."""
    return Stage()


@pytest.fixture(autouse=True)
def _quiet():
    """Crashes are the subject here; their logs, with tracebacks that would keep frames alive, are not."""
    log = logging.getLogger("holloway.supervisor")
    before = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(before)
