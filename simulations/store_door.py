"""A node's side of the simulated registry: calls that travel, answers that get lost, watches that lag.

A call travels half its time, the store acts in one step, and the answer travels the other half. An outage that begins on
the way takes the question (nothing was done) or the answer (it was done, and the caller cannot know). The store acts in
the task that calls: the question of a process that stands still is done when it goes on.

Responsible for the promises of `RegistryPort` under all of that. Not responsible for which faults are at work
(`store_line`), nor for what the store holds (`store_truth`).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn, TypeVar

import trio

from holloway.actors.registry import (
    Changes,
    Compare,
    Lease,
    LeaseId,
    LeaseLostError,
    RegistryPort,
    Snapshot,
    Transaction,
    Watch,
)
from holloway.actors.registry.limits import (
    check_prefix,
    check_revision,
    check_transaction,
    check_ttl,
    closed,
    compacted,
)
from holloway.actors.registry.port import NOTHING
from holloway.actors.registry.watching import LogWatch
from holloway.protocols.errors import RegistryError
from holloway.simulations.store_line import Life, Line
from holloway.simulations.store_truth import Truth

Answer = TypeVar("Answer")


class Door:
    """The store as one process sees it, from its birth to its end."""

    def __init__(self, truth: Truth, life: Life) -> None:
        self._truth, self._life = truth, life

    def handle(self) -> RegistryPort:
        """Return a new handle; its owner closes it."""
        return _Handle(self._truth, self._life)

    def kill(self) -> None:
        """The process is gone, as by SIGKILL: nothing of it reaches the store any more, and each of its calls, waiting or
        later, fails at once with "unavailable". Its leases live until they expire.
        """
        self._life.is_dead = True
        self._life.line.news.unpark_all()
        self._truth.memory.wake()


class _Handle(RegistryPort):
    """See `RegistryPort`."""

    def __init__(self, truth: Truth, life: Life) -> None:
        self._truth, self._life, self._line = truth, life, life.line
        self._is_open = True

    async def snapshot(self, prefix: bytes) -> Snapshot:
        check_prefix(prefix)
        return await self._call("snapshot", lambda: self._truth.memory.snapshot(prefix), does=False)

    @asynccontextmanager
    async def watch(self, prefix: bytes, after_revision: int) -> AsyncIterator[Watch]:
        check_prefix(prefix)
        check_revision(after_revision)
        await self._call("watch", lambda: None, does=False)
        watch = LogWatch(_Stream(self, self._truth, self._line), prefix, after_revision)
        try:
            yield watch
        finally:
            watch.close()
            self._truth.memory.wake()

    async def transact(
        self,
        compares: Sequence[Compare] = (),
        puts: Mapping[bytes, bytes] = NOTHING,
        deletes: Sequence[bytes] = (),
        *,
        lease: LeaseId | None = None,
    ) -> Transaction:
        check_transaction(compares, puts, deletes)

        def act() -> Transaction:
            if puts:  # whether the compares hold or not: etcd counts what a transaction might need
                self._refuse_if_full()
            done = self._truth.memory.transact(compares, puts, deletes, lease)
            if not done.succeeded:
                self._line.reach("race_lost")
            return done

        return await self._call("transact", act)

    async def grant(self, ttl_s: float) -> Lease:
        check_ttl(ttl_s)

        def act() -> Lease:
            self._refuse_if_full()
            return self._truth.grant(ttl_s, self._life)

        lease = await self._call("grant", act)
        self._truth.tell(lease.id)
        return lease

    async def keep_alive(self, lease: LeaseId) -> None:
        await self._call("keep_alive", lambda: self._truth.keep_alive(lease))

    async def revoke(self, lease: LeaseId) -> None:
        await self._call("revoke", lambda: self._truth.revoke(lease, self._life))

    async def close(self) -> None:
        self._is_open = False
        self._line.news.unpark_all()
        self._truth.memory.wake()
        await trio.lowlevel.checkpoint()

    def refuse_if_over(self) -> None:
        """Raises `RegistryError` when the process is dead or the handle closed."""
        if self._life.is_dead:
            raise RegistryError("The registry cannot be reached", "this process was killed", "start the node again")
        if not self._is_open:
            raise closed()

    async def _call(self, verb: str, act: Callable[[], Answer], *, does: bool = True) -> Answer:
        """Ask the store to `act`, in one step of its own. `does`: it changes something when it succeeds."""
        line, half_s = self._line, self._line.call_s() / 2
        await trio.lowlevel.checkpoint()
        self.refuse_if_over()
        cuts = line.cuts
        if line.is_down:
            await self._lose(verb)
        await self._travel(half_s)
        if line.cuts != cuts:
            await self._lose(verb)
        answer: Answer | RegistryError
        try:
            answer = act()
        except RegistryError as refusal:
            line.tell(f"refused {verb}: {_reason(refusal)}")
            answer = refusal
        self._truth.newest()
        # Without latency no checkpoint lies between here and the caller: what was done is returned.
        await self._travel(half_s)
        is_refusal = isinstance(answer, RegistryError)
        if line.cuts != cuts:
            if does and not is_refusal and not (isinstance(answer, Transaction) and not answer.succeeded):
                line.tell(f"answer to {verb} lost")
                line.reach("answer_lost")
            await self._lose(verb)
        if isinstance(answer, RegistryError):
            raise answer
        return answer

    async def _travel(self, time_s: float) -> None:
        """Let the time pass, unless the process dies or the handle is closed meanwhile; no checkpoint if there is none."""
        arrives_at = trio.current_time() + time_s
        while trio.current_time() < arrives_at:
            with trio.move_on_at(arrives_at):
                await self._line.news.park()
            self.refuse_if_over()

    async def _lose(self, verb: str) -> NoReturn:
        """A call that an outage has hit: refuse it now, or when the outage is over."""
        line = self._line
        line.reach("registry_unreachable")
        if line.gets_silence():
            line.tell(f"{verb} gets no answer: unreachable")
            while line.is_down:
                await line.news.park()
                self.refuse_if_over()
        else:
            line.tell(f"refused {verb}: unreachable")
        raise _unreachable()

    def _refuse_if_full(self) -> None:
        if self._line.is_full:
            self._line.reach("store_full")
            raise _DiskFullError()


class _Stream:
    """What a watch reads from (`ChangeLog`): the store's history, as far as news of it has come to the node."""

    def __init__(self, handle: _Handle, truth: Truth, line: Line) -> None:
        self._handle, self._truth, self._line = handle, truth, line
        self._cuts = line.cuts
        self._delay_s: float | None = None  # of the next batch, drawn when there is news; a cancelled reader keeps it
        self._is_silent: bool | None = None  # decided when an outage has cut the stream
        self._is_failed = False
        self._is_held = False
        self._seen = 0  # what `read` saw last: `wait_beyond` waits for more than that, so nothing slips in between
        self._next_at = math.inf

    async def read(self, prefix: bytes, after: int) -> tuple[Changes, int]:
        """See `ChangeLog.read`. What it returns is due now and has not been handed over."""
        await trio.lowlevel.checkpoint()
        self._handle.refuse_if_over()
        self._seen, self._next_at = self._truth.newest(), math.inf
        if self._is_failed or self._line.cuts != self._cuts:
            self._fail_unless_silent()
            return (), after
        if self._delay_s is None and self._seen > after:
            self._delay_s = self._line.batch_s()
        horizon, self._next_at = self._truth.arrived(self._delay_s or 0.0)
        if self._line.is_stale:
            self._hold(prefix, after, horizon)
            return (), after
        self._is_held = False
        try:
            changes, last = self._look(prefix, after, horizon)
        except RegistryError as error:
            self._line.tell(f"watch {_reason(error)}")
            self._line.reach("history_compacted")
            raise
        if changes:
            self._delay_s = None
        return changes, last

    async def wait_beyond(self, revision: int) -> None:
        """See `ChangeLog.wait_beyond`."""
        with trio.move_on_at(self._next_at):
            await self._truth.memory.wait_beyond(self._seen)

    def _look(self, prefix: bytes, after: int, horizon: int) -> tuple[Changes, int]:
        """The next changes up to `horizon`, whole revisions, and the last revision looked at."""
        if after < self._line.forgotten:
            raise compacted(after, self._line.forgotten)
        changes, last = self._truth.memory.changes(prefix, after)
        if last > horizon:
            changes, last = tuple(change for change in changes if change.revision <= horizon), max(after, horizon)
        return changes, last

    def _fail_unless_silent(self) -> None:
        """An outage has cut the stream: it fails now, or, silent, when the outage is over."""
        if self._is_silent is None:
            self._is_silent = self._line.gets_silence()
            self._line.reach("registry_unreachable")
            self._line.tell(f"watch {'gets nothing' if self._is_silent else 'failed'}: unreachable")
        if self._is_failed or not self._is_silent or not self._line.is_down:
            self._is_failed = True
            raise _unreachable()

    def _hold(self, prefix: bytes, after: int, horizon: int) -> None:
        """Tell, once for each time, that something has come and is not given."""
        if self._is_held:
            return
        try:
            self._is_held = bool(self._look(prefix, after, horizon)[0])
        except RegistryError:  # forgotten: also that is told only afterwards
            self._is_held = True
        if self._is_held:
            self._line.tell("watch is stale")
            self._line.reach("watch_was_stale")


class _DiskFullError(RegistryError):
    """etcd's NOSPACE alarm: puts and leases need room, deletes and what keeps a lease do not (`costTxn` in its quota.go)."""

    def __init__(self) -> None:
        super().__init__(
            "The registry is full",
            "the disk of the store is full: nothing can be put, and no lease granted",
            "make room on the store's disk",
        )


def _unreachable() -> RegistryError:
    return RegistryError(
        "The registry cannot be reached", "the store is away, or the way to it is cut", "wait until the store is back"
    )


def _reason(error: RegistryError) -> str:
    """Why, in a word or two for the trace."""
    if isinstance(error, LeaseLostError):
        return f"lease {error.lease} is lost"
    return "disk full" if isinstance(error, _DiskFullError) else error.kind
