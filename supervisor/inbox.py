"""What a supervising loop hears, and in which order.

Every end of a child and every call goes through one `Inbox`, read by one loop, so a strategy is carried out whole
before the next end is looked at.

Trio runs the tasks of one tick in an order it shuffles. Children that end in the same tick are therefore heard together
and sorted: by the time of their end, then by start order. Calls come after ends, in the order they were made.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
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
        self.number = 0  # among the calls to its inbox
        self.withdrawn = False  # the caller has gone, and wants it undone

    async def serve(self) -> None:
        """Carry it out. Called by the loop."""
        try:
            self._answer.append(await self._operation())
        except SupervisorError as error:
            self._error = error
        self._done.set()

    def refuse(self) -> None:
        """Answer that the supervisor is stopping."""
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
        # What has been heard and not been popped. It outlives a cancellation of the loop: its callers must be answered.
        self._heard: list[Incarnation[Any] | Call[Any] | None] = []
        self._calls_total = 0
        self._send, self._receive = trio.open_memory_channel[Incarnation[Any] | Call[Any] | None](math.inf)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._send.close()
        self._receive.close()

    def post_end(self, run: Incarnation[Any]) -> None:
        """A child has ended."""
        self._send.send_nowait(run)

    def post_call(self, call: Call[Any]) -> None:
        """Somebody asks for something."""
        call.number = self._calls_total
        self._calls_total += 1
        self._send.send_nowait(call)

    def wake(self) -> None:
        """Let the loop look round, though there is nothing to hear."""
        self._send.send_nowait(None)

    async def wait(self, deadline: float = math.inf) -> None:
        """Wait until there is something to `pop`, or until `deadline`."""
        with trio.move_on_at(deadline):
            self._heard.append(await self._receive.receive())
        # One more tick, so that all who end in this one are heard together.
        await trio.lowlevel.checkpoint()
        self.listen()

    def listen(self) -> None:
        """Put all there is in order, without waiting."""
        with suppress(trio.WouldBlock):
            while True:
                self._heard.append(self._receive.receive_nowait())
        self._heard.sort(key=_rank, reverse=True)

    def pop(self) -> Incarnation[Any] | Call[Any] | None:
        """The next item in order; None if there are no more. An end that has been noted in the meantime is no item."""
        while self._heard:
            item = self._heard.pop()
            if isinstance(item, Call) or (item is not None and not item.reaped):
                return item
        return None


def in_order(runs: Iterable[Incarnation[Any]]) -> list[Incarnation[Any]]:
    """Runs that have ended, in the order in which their ends count."""
    return sorted(runs, key=_rank)


def _rank(item: Incarnation[Any] | Call[Any] | None) -> tuple[float, float]:
    if item is None:
        return (math.inf, math.inf)
    if isinstance(item, Call):
        return (math.inf, item.number)
    assert item.exit is not None
    return (item.exit.at, item.order)
