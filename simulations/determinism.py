"""One run of Trio that goes the same way every time: the only place that touches Trio's insides, or the process's dice.

What makes two runs of one async program differ, and what is done about each here:

* Trio shuffles the tasks that are ready by a generator of its own, and keeps them in sets, whose order is that of
  addresses: a private switch sorts them first, and the generator is seeded.
* `os.urandom`, `secrets` and the generators of `random`: seeded for the time of the run.
* Threads come back when they like: asking for one raises, and so does asking for a host name, which takes one.
* The garbage collector runs finalisers when memory happens to be short: it is off.
* Time: a `MockClock` that jumps to the next deadline when every task waits.

Not pinned, because no caller can: the randomness inside OpenSSL (keys are made from given bytes instead), `id` and the
order of sets of texts, which nothing that is simulated may depend on; `Steps` is what would show it.

`Freezer` holds the tasks of one process still, as SIGSTOP does, by keeping them out of Trio's run queue.

Not responsible for what runs.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import socket
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

T = TypeVar("T")

STEPS_PER_INSTANT = 1 << 17
"""Steps of tasks without time passing, beyond which something keeps itself busy."""


class NotDeterministicError(RuntimeError):
    """Something that is simulated asked for what no seed decides, or this version of Trio cannot be pinned."""


def run(seed: int, main: Callable[..., Awaitable[T]], *arguments: object, steps: Steps | None = None) -> T:
    """`trio.run` in virtual time, in an order that only `seed` decides. `steps` sees every step of every task.

    Raises what `main` raises, and `NotDeterministicError`.
    """
    with _pinned(seed):
        instruments: list[trio.abc.Instrument] = [] if steps is None else [steps]
        return trio.run(main, *arguments, clock=MockClock(autojump_threshold=0), instruments=instruments)


class Steps(trio.abc.Instrument):
    """Counts the steps of tasks and, where asked, hashes which task took which: two runs with one hash went the same way.

    A network trace alone is too weak for that: tasks that change places in one instant may send the same.
    """

    def __init__(self, *, is_hashing: bool, stuck: Callable[[], None]) -> None:
        """`stuck` is called when `STEPS_PER_INSTANT` steps have been taken and no time has passed."""
        self.count = 0
        self._is_hashing, self._stuck = is_hashing, stuck
        self._looked_at = -1.0
        self._numbers: dict[trio.lowlevel.Task, int] = {}
        self._spawned = 0
        self._taken = array("L")
        self._hash = hashlib.sha256()

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`. Tasks are numbered as they come."""
        if self._is_hashing:
            self._spawned += 1
            self._numbers[task] = self._spawned

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        self._numbers.pop(task, None)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        self.count += 1
        if self._is_hashing:
            self._taken.append(self._numbers.get(task, 0))
        if self.count % STEPS_PER_INSTANT == 0:
            self._fold()
            now = trio.current_time()
            if now == self._looked_at:
                self._stuck()
            self._looked_at = now

    def digest(self) -> str:
        """The SHA-256 of all steps so far, in hexadecimal."""
        self._fold()
        return self._hash.hexdigest()

    def _fold(self) -> None:
        self._hash.update(self._taken.tobytes())
        del self._taken[:]


PROCESS: ContextVar[object] = ContextVar("PROCESS")
"""The simulated process that a task belongs to; tasks inherit it from the one that starts them."""


class Freezer:
    """Lets the tasks of single processes stand still. Made inside the run."""

    def __init__(self) -> None:
        self._held: dict[object, list[trio.lowlevel.Task]] = {}
        runner = trio_run.GLOBAL_RUN_CONTEXT.runner
        self._queue = runner.runq = _RunQueue(self._held, runner.runq)

    def freeze(self, process: object) -> None:
        """No task of `process` takes another step after those that are due in this very batch. Once more is fine."""
        self._held.setdefault(process, [])

    def thaw(self, process: object) -> None:
        """Its tasks go on, in the order in which they would have gone on. One that is not frozen is fine."""
        self._queue.extend(self._held.pop(process, ()))

    def thaw_all(self) -> None:
        """Everybody's tasks go on."""
        for process in list(self._held):
            self.thaw(process)


class _RunQueue(deque[Any]):
    """Trio's queue of tasks that are ready, but for those that stand still."""

    def __init__(self, held: dict[object, list[trio.lowlevel.Task]], before: deque[Any]) -> None:
        super().__init__(before)
        self._held = held

    def append(self, task: trio.lowlevel.Task) -> None:
        """A task is ready."""
        process = task.context.get(PROCESS) if self._held else None
        if process is not None and process in self._held:
            self._held[process].append(task)
        else:
            super().append(task)


@contextmanager
def _pinned(seed: int) -> Iterator[None]:
    """Everything in this process that would differ is decided by `seed` until the end."""
    _check_trio()
    entropy = random.Random(f"{seed}/urandom").randbytes  # noqa: S311 - that is the point
    scheduling = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    order, numbers = trio_run._r.getstate(), random.getstate()
    urandom, bound, threads = os.urandom, random._urandom, trio.to_thread.run_sync  # type: ignore[attr-defined]  # noqa: TID251
    is_collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
        trio_run._r.seed(f"{seed}/scheduling")
        random.seed(f"{seed}/random")
        os.urandom = random._urandom = entropy  # type: ignore[attr-defined]  # noqa: TID251
        trio.to_thread.run_sync = _no_threads
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = scheduling  # type: ignore[misc]
        trio_run._r.setstate(order)
        random.setstate(numbers)
        os.urandom, random._urandom = urandom, bound  # type: ignore[attr-defined]  # noqa: TID251
        trio.to_thread.run_sync = threads
        if is_collecting:
            gc.enable()


async def _no_threads(*_arguments: object, **_options: object) -> NoReturn:
    raise NotDeterministicError("a thread was asked for in a simulation, and nobody knows when it would come back")


class NoNames(trio.abc.HostnameResolver):
    """There is no name service in a simulation. Set it with `trio.socket.set_custom_hostname_resolver`."""

    async def getaddrinfo(self, *_arguments: object, **_options: object) -> NoReturn:
        """See `trio.abc.HostnameResolver`. Raises `socket.gaierror`."""
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "there are no host names in a simulation")

    async def getnameinfo(self, *_arguments: object, **_options: object) -> NoReturn:
        """See `trio.abc.HostnameResolver`. Raises `socket.gaierror`."""
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "there are no host names in a simulation")


def _check_trio() -> None:
    """Raises `NotDeterministicError` when Trio's insides are not those that this module knows."""
    missing = [name for name in ("_ALLOW_DETERMINISTIC_SCHEDULING", "_r") if not hasattr(trio_run, name)]
    if "runq" not in getattr(trio_run.Runner, "__slots__", ()):
        missing.append("Runner.runq")
    if missing:
        raise NotDeterministicError(
            f"Trio {trio.__version__} cannot be made deterministic: it has no {', '.join(missing)} any more"
        )
