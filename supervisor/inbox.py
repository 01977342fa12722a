"""What a supervising loop hears, and in which order.

Every end of a child and every call goes through one `Inbox`, read by one loop, so a strategy is carried out whole
before the next end is looked at.

Trio runs the tasks of one tick in an order it shuffles. Children that end in the same tick are therefore heard together
and sorted: by the time of their end, then by start order. Calls come after ends, in the order they were made.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import trio

from holloway.supervisor.errors import ActorDown, SupervisorError
from holloway.supervisor.watcher import Incarnation

Result = TypeVar("Result")


class Call(Generic[Result]):
    """A request to a loop, and its answer. What is answered is a value or a `SupervisorError`."""

    def __init__(self, operation: Callable[[], Awaitable[Result]], *, path: str) -> None:
        self._operation = operation
        self._path = path
        self._done = trio.Event()
        self._answer: list[Result] = []
        self._error: SupervisorError | None = None
        self.withdrawn = False  # the caller has gone, and wants it undone

    async def serve(self) -> None:
        """Carry it out. Called by the loop."""
        try:
            self._answer.append(await self._operation())
        except SupervisorError as error:
            self._error = error
        self._done.set()

    def refuse(self) -> None:
        """Answer that the supervisor is stopping, unless it has been answered."""
        if not self._done.is_set():
            self._error = ActorDown(self._path, "it is stopping")
            self._done.set()

    async def answer(self) -> Result:
        """Wait for the answer. Called by the caller."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._answer[0]


class Inbox:
    """The ends and calls waiting for one loop. A context manager, to be held open for longer than any child runs."""

    def __init__(self) -> None:
        # Not bounded by a number, since an end must never be lost nor wait: a child has one end, and a caller one call,
        # at a time.
        self._send, self._receive = trio.open_memory_channel[Incarnation[Any] | Call[Any] | None](math.inf)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._send.close()
        self._receive.close()

    def post(self, item: Incarnation[Any] | Call[Any]) -> None:
        """An end, or a call."""
        self._send.send_nowait(item)

    def wake(self) -> None:
        """Let the loop look round, though there is nothing to hear."""
        self._send.send_nowait(None)

    async def take(self, deadline: float = math.inf) -> list[Incarnation[Any] | Call[Any]]:
        """Wait until there is something, or until `deadline`, and return all there is, in order."""
        first = []
        with trio.move_on_at(deadline):
            first.append(await self._receive.receive())
        # One more tick, so that all who end in this one are heard together.
        await trio.lowlevel.checkpoint()
        return self._sorted([*first, *self._drain()])

    def take_now(self) -> list[Incarnation[Any] | Call[Any]]:
        """What there is, in order, without waiting."""
        return self._sorted(self._drain())

    def _drain(self) -> list[Incarnation[Any] | Call[Any] | None]:
        items = []
        while True:
            try:
                items.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                return items

    def _sorted(self, items: list[Incarnation[Any] | Call[Any] | None]) -> list[Incarnation[Any] | Call[Any]]:
        ends = [item for item in items if isinstance(item, Incarnation) and not item.reaped]
        calls = [item for item in items if isinstance(item, Call)]
        return [*sorted(ends, key=_rank), *calls]


def _rank(run: Incarnation[Any]) -> tuple[float, int]:
    assert run.exit is not None
    return (run.exit.at, run.order)
