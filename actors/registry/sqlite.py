"""The registry in a file: the embedded default, for nodes that are processes of one machine.

Responsible for: Trio's side of it. Each call is one short visit of a worker thread (a limiter of its own with one
token, so that it neither shares nor starves the program's threads); waiting for a lock that another process holds
happens in Trio and can be cancelled at once; one watch at a time asks the file for news, for all watches of the
handle. NOT responsible for: what a call does to the file (`sqlite_file`), or how it is opened (`sqlite_opening`).

News of other processes comes by looking: 20 ms after the last news, then less often, down to every POLL_MAX_S. A look
is two calls of stat, and a visit to the file only when they show something, a lease is due, or once a second. An idle
handle with watches costs about 0.2 % of a core, nearly all of it for waking up; one that nobody watches with costs
nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import trio

from holloway.actors.registry.limits import (
    DEFAULT_LIMITS,
    Limits,
    check_lease,
    check_prefix,
    check_revision,
    check_transaction,
    check_ttl,
    closed,
)
from holloway.actors.registry.port import (
    NOTHING,
    Changes,
    Compare,
    Lease,
    LeaseId,
    RegistryPort,
    Snapshot,
    Transaction,
    Watch,
)
from holloway.actors.registry.sqlite_file import NS, Moment, RegistryFile
from holloway.actors.registry.sqlite_opening import explain, is_busy
from holloway.actors.registry.watching import LogWatch

POLL_MIN_S = 0.02  # also more than a tick of any kernel's clock: see RegistryFile.is_quiet
POLL_MAX_S = 0.2  # a change is noticed in less than 0.3 s, on a busy machine too
BUSY_S = 5.0  # a lock that lasts longer is no other node's transaction
BUSY_PAUSE_S = 0.005
CLOCK_STEP_S = 0.25  # the wall clock left the monotonic one by this much between two looks: somebody set it
EXPIRY_GRACE_S = 1.0  # see sqlite_file: a new process ends no leases for this long

P = ParamSpec("P")
T = TypeVar("T")


@asynccontextmanager
async def open_sqlite(
    path: Path, *, wall_ns: Callable[[], int], limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[SqliteRegistry]:
    """Open the registry file at `path` (made with mode 0600 if absent), and close it at the end.

    `wall_ns` gives nanoseconds since 1970. Raises RegistryError: "denied" for a file that others can write or that is
    no registry of this version, "unavailable" for one that is damaged, locked, or cannot be written.
    """
    visits = _Visits(path, wall_ns)
    file = await visits.make(lambda moment: RegistryFile(path, limits, moment))
    registry = SqliteRegistry(file, visits)
    try:
        yield registry
    finally:
        await registry.close()


class SqliteRegistry(RegistryPort):
    """One handle. Made by `open_sqlite`."""

    def __init__(self, file: RegistryFile, visits: _Visits) -> None:
        self._file = file
        self._visits = visits
        self._open = True
        self._head = 0  # the newest revision this handle has heard of
        self._polling = False
        self._stirred = trio.Event()  # replaced when set: something happened on this handle
        self._waiting = trio.lowlevel.ParkingLot()

    async def snapshot(self, prefix: bytes) -> Snapshot:
        check_prefix(prefix)
        return await self._call(self._file.snapshot, prefix)

    @asynccontextmanager
    async def watch(self, prefix: bytes, after_revision: int) -> AsyncIterator[Watch]:
        check_prefix(prefix)
        check_revision(after_revision)
        await self._checkpoint_if_open()
        watch = LogWatch(self, prefix, after_revision)
        try:
            yield watch
        finally:
            watch.close()
            self._stir()

    async def transact(
        self,
        compares: Sequence[Compare] = (),
        puts: Mapping[bytes, bytes] = NOTHING,
        deletes: Sequence[bytes] = (),
        *,
        lease: LeaseId | None = None,
    ) -> Transaction:
        check_transaction(compares, puts, deletes)
        if lease is not None:
            check_lease(lease)
        done = await self._call(self._file.transact, compares, puts, deletes, lease)
        self._hear_of(done.revision)
        return done

    async def grant(self, ttl_s: float) -> Lease:
        check_ttl(ttl_s)
        return await self._call(self._file.grant, ttl_s)

    async def keep_alive(self, lease: LeaseId) -> None:
        check_lease(lease)
        await self._call(self._file.keep_alive, lease)

    async def revoke(self, lease: LeaseId) -> None:
        check_lease(lease)
        await self._call(self._file.revoke, lease)
        self._stir()

    async def close(self) -> None:
        if self._open:
            self._open = False
            self._stir()
            # Shielded: a connection that stays open leaves its log behind. This waits for the visit under way, which is
            # short; those that wait behind it will find the handle closed.
            with trio.CancelScope(shield=True):
                await self._visits.make(lambda _: self._file.close())
        else:
            await trio.lowlevel.checkpoint()

    async def read(self, prefix: bytes, after: int) -> tuple[Changes, int]:
        """See `ChangeLog.read`."""
        changes, last = await self._call(self._file.changes, prefix, after)
        self._hear_of(last)
        return changes, last

    async def wait_beyond(self, revision: int) -> None:
        """See `ChangeLog.wait_beyond`. The first to wait asks the file, for all; the others wait for what it hears."""
        if self._head > revision:
            await self._checkpoint_if_open()
        elif self._polling:
            await self._waiting.park()
        else:
            self._polling = True
            try:
                await self._poll(revision)
            finally:
                # Cancelled or done: one of those who are still waiting takes over.
                self._polling = False
                self._waiting.unpark_all()

    async def _poll(self, revision: int) -> None:
        pause = POLL_MIN_S
        stirred = self._stirred  # the one of now: what happens during a visit to the file must not be missed
        while self._open and self._head <= revision:
            with trio.move_on_after(pause) as idle:
                await stirred.wait()
            if not idle.cancelled_caught:
                return
            if not self._file.is_quiet(self._visits.now()):
                self._hear_of(await self._call(self._file.poll))
            pause = min(2 * pause, POLL_MAX_S)

    def _hear_of(self, revision: int) -> None:
        if revision > self._head:
            self._head = revision
            self._stir()

    def _stir(self) -> None:
        """Let every waiting watch look again."""
        self._stirred.set()
        self._stirred = trio.Event()
        self._waiting.unpark_all()

    async def _call(self, work: Callable[Concatenate[Moment, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        await self._checkpoint_if_open()

        def visit(moment: Moment) -> T:
            if not self._open:
                raise closed()
            return work(moment, *args, **kwargs)

        return await self._visits.make(visit)

    async def _checkpoint_if_open(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self._open:
            raise closed()


class _Visits:
    """The way to the file: one visit at a time, and each with the time at which it starts."""

    def __init__(self, path: Path, wall_ns: Callable[[], int]) -> None:
        self._path = path
        self._wall_ns = wall_ns
        self._opened = self._monotonic = trio.current_time()
        self._wall = wall_ns()
        self._steps = 0
        self._turn = trio.Lock()
        self._thread = trio.CapacityLimiter(1)

    async def make(self, work: Callable[[Moment], T]) -> T:
        """Do `work` in the thread; while another process holds the file, try again, up to BUSY_S.

        A cancellation is seen between two tries; a visit that has begun is short, is finished, and its result returned.
        """
        give_up = trio.current_time() + BUSY_S
        pause = BUSY_PAUSE_S
        while True:
            # The lock, and not the limiter alone: the clock must be read when the turn has come. A visit with a time
            # from before a jump, made after one with a time from behind it, would take every lease for dead.
            async with self._turn:
                try:
                    return await trio.to_thread.run_sync(work, self.now(), limiter=self._thread)
                except sqlite3.Error as error:
                    if not is_busy(error) or trio.current_time() >= give_up:
                        raise explain(self._path, error) from error
            await trio.sleep(pause)
            pause = min(2 * pause, 10 * BUSY_PAUSE_S)

    def now(self) -> Moment:
        """Read the wall clock, and notice when it jumped."""
        wall, monotonic = self._wall_ns(), trio.current_time()
        if abs((wall - self._wall) / NS - (monotonic - self._monotonic)) > CLOCK_STEP_S:
            self._steps += 1
        self._wall, self._monotonic = wall, monotonic
        return Moment(wall, self._steps, monotonic - self._opened >= EXPIRY_GRACE_S)
