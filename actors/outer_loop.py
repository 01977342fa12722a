"""A loop around Trio that reads descriptors itself: what arrives is in the hands of its reader without a task being woken.

To wake a task that waits for a descriptor takes Trio some dozens of calls, and one more round of the loop to have it wait again.
Under load that is little beside the work. To a packet that comes alone, after a rest in which all of it has left the caches
of the processor, it is a quarter of the whole way. So in a program that is ours alone Trio is the guest of this loop
(`trio.lowlevel.start_guest_run`): it has a thread to wait in, and its turns here, for everything but these descriptors.

    wait for descriptors and for Trio ──► readers of what is ready ──► a turn of Trio, if it wants one ──► ...

A reader is called between two turns of Trio, in its thread, and sees what a task would see: nothing happens at the same time. It
takes what is there, within a budget, and returns; then everybody else has a turn. It is no task, so it cannot wait.

Not responsible for reading, nor for programs that others run Trio in: their nodes read in tasks (`Ports.serve`).
"""

from __future__ import annotations

import os
import select
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, TypeAlias, TypeVar

import trio

T = TypeVar("T")

Reader: TypeAlias = Callable[[bool], None]
"""Takes in what a descriptor has, perhaps nothing. Told whether the loop has rested: then hardly more than one thing is there."""


GIVE_WAY_MS = 100
"""So long Trio's thread is waited for when it has something to say; it takes a tenth of a millisecond."""


FEW_EVENTS = 32
"""Descriptors that one look finds ready; those beyond are found by the next. Python makes room for a thousand otherwise, each time."""


LOOKS = 8
"""How often a reader looks for what is urgent before it hands on what it has read: whatever was sent before that is there by then."""
LOOK_EVERY = 4
"""Packets of a stream from one look to the next. Measured beside one stream, against wireguard-go: a ping takes 0.14 of its time with 1, 0.31
with 4, 0.41 with 8; with 1 a byte costs 2 % more than with 8."""
LOOK_COST_BYTES = 64 * 1024
"""What a look that finds something takes of the reader's budget."""


class OuterLoop:
    """Runs one Trio program. Made and run in one thread; in the main thread signals come as with `trio.run`."""

    def __init__(self) -> None:
        """Raises `OSError` when the process has too many files open."""
        self._epoll = select.epoll()
        self._urgent = select.epoll()
        self.is_urgent: Callable[[], object] = partial(self._urgent.poll, 0, 1)
        """Whether `look` has something to do, unless it is doing something already."""
        self._is_looking = False
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Not at the end of `run`: Trio's thread, which holds on to us, may still be about to ring it.
        weakref.finalize(self, os.close, self._bell)
        self._readers: dict[int, Reader] = {}
        self._failed: dict[int, _Failure] = {}
        self._bell_rings = select.poll()
        self._bell_rings.register(self._bell, select.POLLIN)
        self._soon: deque[Callable[[], object]] = deque()
        self._result: Any = None  # an `outcome.Outcome`, which Trio makes
        self._read(self._bell, self._heed)

    @trio.lowlevel.enable_ki_protection  # an interrupt is for the program, not for whatever is under way here
    def run(self, main: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """`trio.run`. Once."""
        poll, readers, soon = self._epoll.poll, self._readers, self._soon
        few = FEW_EVENTS
        try:
            trio.lowlevel.start_guest_run(
                main,
                *arguments,
                run_sync_soon_threadsafe=self._call_soon,
                run_sync_soon_not_threadsafe=self._soon.append,
                done_callback=self._done,
            )
            while self._result is None:
                events = poll(0, few)
                is_rested = not events and not soon
                if is_rested:
                    events = poll(-1, few)
                for descriptor, _ in events:
                    reader = readers.get(descriptor)  # another one may have ended it
                    if reader is not None:
                        try:
                            reader(is_rested)
                        except BaseException as error:  # noqa: BLE001 - only carried to the task that raises it
                            self._fail(descriptor, error)
                if not is_rested and not soon:
                    self._give_way()
                for _ in range(len(soon)):
                    soon.popleft()()
        finally:
            self._epoll.close()
            self._urgent.close()
            self._readers.clear()  # one of them is ours, and would keep us; and so would a call that comes too late
            self._soon.clear()
        result: T = self._result.unwrap()
        return result

    def _give_way(self) -> None:
        """Let Trio's thread say that there are tasks to run, if there are. Where there is always something to read it could wait long
        for a moment to do so, as Python lets one thread run at a time; and what readers have for tasks would pile up.
        """
        if trio.lowlevel.current_statistics().tasks_runnable:
            self._bell_rings.poll(GIVE_WAY_MS)

    def look(self, rounds: int = 1) -> bool:
        """Within a reader, between two things that it reads: have those called whose descriptors are urgent and have something, once in
        each round until there is nothing. Whether anybody was called.

        Within one of those this does nothing.
        """
        if self._is_looking:
            return False
        for done in range(rounds):
            events = self._urgent.poll(0, FEW_EVENTS)
            if not events:
                return done > 0
            for descriptor, _ in events:
                reader = self._readers.get(descriptor)
                if reader is not None:
                    self._is_looking = True
                    try:
                        reader(False)
                    except BaseException as error:  # noqa: BLE001 - only carried to the task that raises it
                        self._fail(descriptor, error)
                    finally:
                        self._is_looking = False
        return True

    async def serve(self, descriptor: int, reader: Reader, *, urgent: tuple[int, Reader] | None = None) -> NoReturn:
        """Have `reader` called whenever there is something to read, until cancelled. The descriptor stays open meanwhile.

        `urgent`: another descriptor with its reader, served with it; `look` calls this one, too. Raises what a reader raises, and
        `trio.BusyResourceError` for a descriptor that has a reader.
        """
        served = {descriptor: reader} if urgent is None else {descriptor: reader, urgent[0]: urgent[1]}
        if not self._readers.keys().isdisjoint(served):
            raise trio.BusyResourceError("somebody reads this descriptor already")
        failure = _Failure()
        try:
            for each, its_reader in served.items():
                self._failed[each] = failure
                self._read(each, its_reader)
            if urgent is not None:
                self._urgent.register(urgent[0], select.EPOLLIN)
            await failure.told.wait()
        finally:
            for each in served:
                if self._failed.get(each) is failure:  # otherwise it is another's by now
                    del self._failed[each]
                    self._forget(each)
        assert failure.error is not None
        raise failure.error

    def _read(self, descriptor: int, reader: Reader) -> None:
        self._epoll.register(descriptor, select.EPOLLIN)
        self._readers[descriptor] = reader

    def _forget(self, descriptor: int) -> None:
        if self._readers.pop(descriptor, None) is not None:
            with suppress(OSError):  # whoever closed it has taken it from the kernel's list, too
                self._epoll.unregister(descriptor)
            with suppress(OSError):  # nor were all of them urgent
                self._urgent.unregister(descriptor)

    def _fail(self, descriptor: int, error: BaseException) -> None:
        failure = self._failed.get(descriptor)
        if failure is None:
            raise error
        self._forget(descriptor)
        failure.error = error
        failure.told.set()

    # What Trio asks of the loop that it is a guest of.

    def _call_soon(self, call: Callable[[], object]) -> None:
        """From any thread."""
        self._soon.append(call)
        os.eventfd_write(self._bell, 1)

    def _heed(self, _: bool) -> None:
        os.eventfd_read(self._bell)

    def _done(self, result: Any) -> None:
        self._result = result


class _Failure:
    """What became of a reader, once it has raised something."""

    __slots__ = ("error", "told")

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.told = trio.Event()
