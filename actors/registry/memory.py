"""The registry in memory: one store shared by all nodes of one program.

For tests, the simulator and programs that hold several nodes. It is deterministic: time is Trio's clock, everything is
kept in the order in which it happened, and there is no thread, no randomness, and no task in the background.

Responsible for: the promises of `RegistryPort` inside one `trio.run`. NOT responsible for: outliving the program, nor
faults: a simulated outage wraps the port.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from holloway.actors.registry.limits import (
    BATCH_CHANGES,
    DEFAULT_LIMITS,
    LEASES_MAX,
    Limits,
    check_prefix,
    check_revision,
    check_transaction,
    check_ttl,
    closed,
    compacted,
    never_reached,
    size_of,
    store_full,
    too_many_leases,
)
from holloway.actors.registry.port import (
    NOTHING,
    Change,
    Changes,
    Compare,
    Delete,
    Entry,
    Lease,
    LeaseId,
    LeaseLostError,
    Put,
    RegistryPort,
    Snapshot,
    Transaction,
    Watch,
    holds,
)
from holloway.actors.registry.watching import LogWatch


@dataclass(slots=True)
class _Holding:
    """A lease in the store. `keys` is a dict for its order."""

    ttl_s: float
    deadline: float  # trio.current_time()
    keys: dict[bytes, None] = field(default_factory=dict)


class MemoryRegistry:
    """The store itself. Its methods are synchronous and act at once; nodes use it through `handle()`.

    They raise as `RegistryPort` says, except that they do not check the caller's sizes.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._revision = 1  # as a new etcd: 0 is no revision of any store
        self._compacted = 0  # history holds every revision above this one
        self._entries: dict[bytes, Entry] = {}
        self._store_bytes = 0
        self._history: dict[int, Changes] = {}
        self._history_changes = 0
        self._history_bytes = 0
        self._leases: dict[LeaseId, _Holding] = {}
        self._last_lease = 0
        self._next_deadline = math.inf
        self._news = trio.lowlevel.ParkingLot()

    def handle(self) -> MemoryHandle:
        """Return a new handle; its owner closes it."""
        return MemoryHandle(self)

    def snapshot(self, prefix: bytes) -> Snapshot:
        """See `RegistryPort.snapshot`."""
        self._expire()
        keys = sorted(key for key in self._entries if key.startswith(prefix))
        return Snapshot(self._revision, {key: self._entries[key] for key in keys})

    def changes(self, prefix: bytes, after: int) -> tuple[Changes, int]:
        """Return changes above `after`, and the last revision looked at. Raises RegistryError("compacted")."""
        self._expire()
        if after < self._compacted:
            raise compacted(after, self._compacted)
        if after > self._revision:
            raise never_reached(after, self._revision)
        batch: list[Change] = []
        for revision in range(after + 1, self._revision + 1):
            batch.extend(change for change in self._history.get(revision, ()) if change.key.startswith(prefix))
            if len(batch) >= BATCH_CHANGES:
                return tuple(batch), revision
        return tuple(batch), self._revision

    def transact(
        self, compares: Sequence[Compare], puts: Mapping[bytes, bytes], deletes: Sequence[bytes], lease: LeaseId | None
    ) -> Transaction:
        """See `RegistryPort.transact`."""
        self._expire()
        if not all(holds(compare, self._entries.get(compare.key)) for compare in compares):
            found = {c.key: self._entries[c.key] for c in compares if c.key in self._entries}
            return Transaction(False, self._revision, found)
        if puts and lease is not None and lease not in self._leases:
            raise LeaseLostError(lease)
        return Transaction(True, self._apply(puts, deletes, lease))

    def grant(self, ttl_s: float) -> Lease:
        """See `RegistryPort.grant`."""
        self._expire()
        if len(self._leases) >= LEASES_MAX:
            raise too_many_leases()
        self._last_lease += 1
        lease = LeaseId(self._last_lease)
        self._leases[lease] = _Holding(ttl_s, trio.current_time() + ttl_s)
        self._schedule()
        return Lease(lease, ttl_s)

    def keep_alive(self, lease: LeaseId) -> None:
        """See `RegistryPort.keep_alive`."""
        self._expire()
        if lease not in self._leases:
            raise LeaseLostError(lease)
        holding = self._leases[lease]
        holding.deadline = trio.current_time() + holding.ttl_s
        self._schedule()

    def revoke(self, lease: LeaseId) -> None:
        """See `RegistryPort.revoke`."""
        self._expire()
        if lease in self._leases:
            self._drop(lease)

    def compact(self, revision: int) -> None:
        """Forget the history up to and with `revision` (at most the newest): watches that start before it fail."""
        while self._compacted < min(revision, self._revision):
            self._compacted += 1
            forgotten = self._history.pop(self._compacted, ())
            self._history_changes -= len(forgotten)
            self._history_bytes -= sum(map(_change_size, forgotten))

    async def wait_beyond(self, revision: int) -> None:
        """Return when something happened after `revision`, a lease is due, or a handle was closed."""
        if self._revision > revision:
            await trio.lowlevel.checkpoint()
            return
        # No task of ours watches the time: whoever waits for news also waits for the next lease to end.
        with trio.move_on_at(self._next_deadline):
            await self._news.park()

    def wake(self) -> None:
        """Let every waiting watch look again."""
        self._news.unpark_all()

    def _apply(self, puts: Mapping[bytes, bytes], deletes: Sequence[bytes], lease: LeaseId | None) -> int:
        """Change the entries, all at one new revision. Refuse before anything moved."""
        gone = [key for key in deletes if key in self._entries]
        if not puts and not gone:
            return self._revision
        touched = [key for key in (*puts, *gone) if key in self._entries]
        growth = sum(size_of(key, value) for key, value in puts.items())
        growth -= sum(size_of(key, self._entries[key].value) for key in touched)
        if self._store_bytes + growth > self._limits.store_bytes:
            raise store_full(self._limits.store_bytes)
        revision = self._revision + 1
        batch: list[Change] = []
        for key, value in puts.items():
            old = self._unbind(key)
            entry = Entry(
                value, old.create_revision if old else revision, revision, old.version + 1 if old else 1, lease
            )
            self._entries[key] = entry
            if lease is not None:
                self._leases[lease].keys[key] = None
            batch.append(Put(key, entry))
        for key in gone:
            self._unbind(key)
            del self._entries[key]
            batch.append(Delete(key, revision))
        self._store_bytes += growth
        self._revision = revision
        self._remember(tuple(batch))
        self.wake()
        return revision

    def _unbind(self, key: bytes) -> Entry | None:
        """Free `key` from the lease it has, if any, and return what it holds."""
        entry = self._entries.get(key)
        if entry is not None and entry.lease is not None:
            self._leases[entry.lease].keys.pop(key, None)
        return entry

    def _remember(self, changes: Changes) -> None:
        self._history[self._revision] = changes
        self._history_changes += len(changes)
        self._history_bytes += sum(map(_change_size, changes))
        while self._compacted + 1 < self._revision and (
            self._history_changes > self._limits.history_changes or self._history_bytes > self._limits.history_bytes
        ):
            self.compact(self._compacted + 1)

    def _expire(self) -> None:
        """Drop every lease whose time is over, the longest overdue first. Comes before whatever else is done."""
        now = trio.current_time()
        while self._next_deadline <= now:
            self._drop(min(self._leases, key=lambda lease: (self._leases[lease].deadline, lease)))

    def _drop(self, lease: LeaseId) -> None:
        self._apply({}, sorted(self._leases[lease].keys), None)
        del self._leases[lease]
        self._schedule()

    def _schedule(self) -> None:
        """Find the next end of a lease.

        Who waits for a later one need not hear: the put under a new lease will wake it.
        """
        self._next_deadline = min((holding.deadline for holding in self._leases.values()), default=math.inf)


def _change_size(change: Change) -> int:
    return size_of(change.key, change.entry.value if isinstance(change, Put) else b"")


class MemoryHandle(RegistryPort):
    """One node's handle on a `MemoryRegistry`."""

    def __init__(self, store: MemoryRegistry) -> None:
        self._store = store
        self._open = True

    async def snapshot(self, prefix: bytes) -> Snapshot:
        check_prefix(prefix)
        return (await self._at_the_store()).snapshot(prefix)

    @asynccontextmanager
    async def watch(self, prefix: bytes, after_revision: int) -> AsyncIterator[Watch]:
        check_prefix(prefix)
        check_revision(after_revision)
        await self._at_the_store()
        watch = LogWatch(self, prefix, after_revision)
        try:
            yield watch
        finally:
            watch.close()
            self._store.wake()

    async def transact(
        self,
        compares: Sequence[Compare] = (),
        puts: Mapping[bytes, bytes] = NOTHING,
        deletes: Sequence[bytes] = (),
        *,
        lease: LeaseId | None = None,
    ) -> Transaction:
        check_transaction(compares, puts, deletes)
        return (await self._at_the_store()).transact(compares, puts, deletes, lease)

    async def grant(self, ttl_s: float) -> Lease:
        check_ttl(ttl_s)
        return (await self._at_the_store()).grant(ttl_s)

    async def keep_alive(self, lease: LeaseId) -> None:
        (await self._at_the_store()).keep_alive(lease)

    async def revoke(self, lease: LeaseId) -> None:
        (await self._at_the_store()).revoke(lease)

    async def close(self) -> None:
        self._open = False
        self._store.wake()
        await trio.lowlevel.checkpoint()

    async def read(self, prefix: bytes, after: int) -> tuple[Changes, int]:
        """See `ChangeLog.read`."""
        return (await self._at_the_store()).changes(prefix, after)

    async def wait_beyond(self, revision: int) -> None:
        """See `ChangeLog.wait_beyond`."""
        await self._store.wait_beyond(revision)

    async def _at_the_store(self) -> MemoryRegistry:
        """The checkpoint comes first: whoever is cancelled here has changed nothing, and what is done is returned."""
        await trio.lowlevel.checkpoint()
        if not self._open:
            raise closed()
        return self._store
