"""Names that outlive what they name: how one actor holds on to another that may be restarted.

A channel or an object taken from an actor dies with that incarnation. So nobody keeps the handle: they keep a `Ref`,
which is a path, and ask it for the present handle each time; or a `Stash`, which also keeps messages while there is
none. `Cell` is the meeting point of a path's refs with its incarnations.

Not responsible for starting or stopping anything, and not for who may hold a ref to whom.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio

from holloway.supervisor.errors import ActorDown
from holloway.supervisor.events import Exit

Handle = TypeVar("Handle")
Message = TypeVar("Message")


class Binding(Generic[Handle]):
    """The stay of one incarnation at its path, from ready to ended."""

    __slots__ = ("closed", "exit", "handle")

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.closed = trio.Event()
        self.exit: Exit | None = None


class Cell(Generic[Handle]):
    """What is known at one path: the incarnation that is up, or how the last one ended."""

    __slots__ = ("__weakref__", "_changed", "_stashes", "binding", "last_exit", "path", "tree_stopped")

    def __init__(self, path: str) -> None:
        self.path = path
        self.binding: Binding[Handle] | None = None
        self.last_exit: Exit | None = None
        self.tree_stopped = False
        self._changed: trio.Event | None = None
        # Weak, because a stash belongs to an actor that may itself be restarted and make another.
        self._stashes: list[weakref.ref[Stash[Handle, Any]]] = []

    def bind(self, handle: Handle) -> None:
        """An incarnation is ready. What was stashed for it is delivered before anybody else can reach it."""
        self.binding = Binding(handle)
        living = [(ref, stash) for ref in self._stashes if (stash := ref()) is not None]
        self._stashes = [ref for ref, _ in living]
        for _, stash in living:
            stash.flush(handle)
        self._announce()

    def unbind(self, how: Exit) -> None:
        """The incarnation has ended. Called in the same step as its end, so no sender can meet a dead one."""
        binding = self.binding
        if binding is None:  # it never became ready
            return
        self.binding = None
        self.last_exit = binding.exit = how
        binding.closed.set()
        self._announce()

    def close(self) -> None:
        """The tree has stopped: nothing will be bound here again."""
        self.tree_stopped = True
        self._announce()

    def attach(self, stash: Stash[Handle, Any]) -> None:
        """Flush `stash` whenever an incarnation becomes ready, for as long as somebody else holds it."""
        self._stashes.append(weakref.ref(stash))

    async def wait_changed(self) -> None:
        """Until the next call of `bind`, `unbind` or `close`."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def _announce(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


class Ref(Generic[Handle]):
    """An actor by its path: good before it first starts, through its restarts, and after its end."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell[Handle]) -> None:
        self._cell = cell

    def __repr__(self) -> str:
        return f"<Ref {self.path} {'down' if self._cell.binding is None else 'up'}>"

    @property
    def path(self) -> str:
        """The names from the root of the tree down, joined by dots."""
        return self._cell.path

    def get(self) -> Handle:
        """The present handle. Raises `ActorDown`. Do not keep it: it is dead after the next restart."""
        binding = self._cell.binding
        if binding is None:
            raise ActorDown(self.path)
        return binding.handle

    async def ready(self) -> Handle:
        """Wait until the actor is up and return its handle.

        Waits for as long as the tree runs, even for a child that is not there yet. Raises `ActorDown` when the tree
        stops.
        """
        await trio.lowlevel.checkpoint()
        while (binding := self._cell.binding) is None:
            if self._cell.tree_stopped:
                raise ActorDown(self.path, "its tree has stopped")
            await self._cell.wait_changed()
        return binding.handle

    async def wait_closed(self) -> Exit:
        """The monitor: wait for the end of the incarnation that is up now and return how it ended.

        With none up it returns the end of the last one, at once. Raises `ActorDown` if there has never been one.
        """
        await trio.lowlevel.checkpoint()
        binding = self._cell.binding
        if binding is None:
            how = self._cell.last_exit
        else:
            await binding.closed.wait()
            how = binding.exit
        if how is None:
            raise ActorDown(self.path, "it has never been up")
        return how


class Stash(Generic[Handle, Message]):
    """A sender's end that keeps up to `limit` messages while the actor is down, in order.

    `deliver(handle, message)` hands over one message and must not wait: `handle.inbox.send_nowait(message)`, say. If it
    raises `trio.WouldBlock` the message is refused; `trio.BrokenResourceError` and `trio.ClosedResourceError` mean
    that the actor is on its way out, and the message is kept for the next incarnation. Anything else is a bug and
    reaches whoever is sending (after a restart: the start of the new incarnation).
    """

    __slots__ = ("__weakref__", "_cell", "_deliver", "_kept", "_limit", "refused_total")

    def __init__(self, ref: Ref[Handle], deliver: Callable[[Handle, Message], object], *, limit: int) -> None:
        self._cell = ref._cell
        self._deliver = deliver
        self._limit = limit
        self._kept: deque[Message] = deque()
        self.refused_total = 0
        self._cell.attach(self)

    def __len__(self) -> int:
        return len(self._kept)

    def send(self, message: Message) -> bool:
        """Deliver `message`, or keep it for the next incarnation. False if it was refused; `refused_total` counts."""
        binding = self._cell.binding
        # While older messages wait, nothing may overtake them.
        if binding is not None and not self._kept:
            try:
                self._deliver(binding.handle, message)
            except trio.WouldBlock:
                self.refused_total += 1
                return False
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            else:
                return True
        if len(self._kept) >= self._limit:
            self.refused_total += 1
            return False
        self._kept.append(message)
        return True

    def flush(self, handle: Handle) -> None:
        """Deliver what is kept to `handle`, oldest first."""
        while self._kept:
            message = self._kept.popleft()
            try:
                self._deliver(handle, message)
            except trio.WouldBlock:
                self.refused_total += 1
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._kept.appendleft(message)
                return
