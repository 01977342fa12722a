"""The registry port: what a node asks of the store that all nodes of a network share.

A store is a sorted map from keys to values with one counter, the *revision*. Every transaction that changes something
moves the counter by exactly one, and everything it changed carries that revision. From this come the two things that a
mesh needs: a copy of the store that is never wrong for long (a snapshot at revision R, then every change from R+1, with
no gap and no duplicate), and claims that two nodes cannot both win (compare, then put, in one step).

The semantics are etcd's (https://etcd.io/docs/v3.5/learning/api/), cut down to what is used, so that the etcd back end
is a translation and not an emulation. Where etcd leaves a choice, this file makes it, and the contract tests hold every
back end to it.

Responsible for: the words (`Entry`, `Put`, `Transaction`, `Lease` and so on), the promises, and the small operations
that are one transaction. NOT responsible for: what keys and values mean, retrying, or keeping leases alive: the caller
owns those. Values are whatever somebody wrote: treat each as hostile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NewType, Protocol, Self, TypeAlias, assert_never

from holloway.protocols.errors import RegistryError

LeaseId = NewType("LeaseId", int)

NOTHING: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class LeaseLostError(RegistryError):
    """The lease is not there: it expired, was revoked, or never was.

    `kind` is "unavailable", because starting again helps: take a new lease and put the keys again.
    """

    def __init__(self, lease: LeaseId) -> None:
        super().__init__(
            f"The lease {lease} does not exist",
            "it was not kept alive in time, or somebody revoked it; its keys are gone with it",
            "grant a new lease and put the keys again",
        )
        self.lease = lease


@dataclass(frozen=True, slots=True)
class Entry:
    """What the store holds under one key.

    `create_revision` is the revision of the put that made the key after it was last absent, `mod_revision` that of its
    newest put, `version` the number of puts since it was made (1 for a new key). `lease` is None for a key that stays.
    """

    value: bytes = field(repr=False)
    create_revision: int
    mod_revision: int
    version: int
    lease: LeaseId | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The entries under a prefix, in byte order of their keys, all as they were at `revision`."""

    revision: int
    entries: Mapping[bytes, Entry]


@dataclass(frozen=True, slots=True)
class Put:
    """A key got a value. `entry.mod_revision` says when."""

    key: bytes
    entry: Entry

    @property
    def revision(self) -> int:
        return self.entry.mod_revision


@dataclass(frozen=True, slots=True)
class Delete:
    """A key vanished at `revision`: deleted by somebody, or with its lease."""

    key: bytes
    revision: int


Change: TypeAlias = Put | Delete
Changes: TypeAlias = tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    """Holds when the key does not exist."""

    key: bytes


@dataclass(frozen=True, slots=True)
class ModRevisionIs:
    """Holds when the newest put of the key had this revision; 0 holds when the key does not exist."""

    key: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class ValueIs:
    """Holds when the key exists and has exactly this value; never for an absent key, the empty value included."""

    key: bytes
    value: bytes = field(repr=False)


Compare: TypeAlias = Absent | ModRevisionIs | ValueIs


def holds(compare: Compare, entry: Entry | None) -> bool:
    """Tell whether `compare` holds for what its key has; None: the key is absent."""
    match compare:
        case Absent():
            return entry is None
        case ModRevisionIs(revision=revision):
            return revision == (entry.mod_revision if entry else 0)
        case ValueIs(value=value):
            return entry is not None and entry.value == value
        case _:
            assert_never(compare)


@dataclass(frozen=True, slots=True)
class Transaction:
    """How a transaction ended.

    `succeeded`: every compare held, and the puts and deletes were done. `revision`: the store's revision afterwards;
    when something changed, it is the revision of those changes. `found`: of a transaction that did not succeed, the
    entries of the compared keys at that moment (an absent key is missing), so that the loser of a race learns who
    won.
    """

    succeeded: bool
    revision: int
    found: Mapping[bytes, Entry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lease:
    """A promise to come back. Without `keep_alive` for `ttl_s` seconds, the lease and every key put under it vanish.

    `ttl_s` is what the store granted. It is never shorter than what was asked for (etcd rounds up).
    """

    id: LeaseId
    ttl_s: float


class Watch(Protocol):
    """The changes under one prefix, in order. Serves one task at a time.

    `receive` waits for the next batch. A batch is never empty, is ordered by revision (inside a revision: puts in the
    order in which the transaction gave them, then deletes), and holds whole revisions: a transaction is never split
    over two batches. So `batch[-1].revision` is always a good place to start again. No change is lost when `receive`
    is cancelled.

    Iteration is `receive` for ever; a watch does not end by itself. It fails with RegistryError:
    "compacted" when changes that it should give are gone, because the start is too old or too far ahead (the store is
    not the one the revision came from), or because the caller read too slowly: a back end buffers a bounded number of
    changes. Take a new snapshot, let it REPLACE what you know, and watch from there.
    "unavailable" when the store is away: back off, and watch again after the last revision you have.
    """

    async def receive(self) -> Changes: ...

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Changes:
        return await self.receive()


class RegistryPort(Protocol):
    """One handle on the store. Any number of tasks may use it at once. Implementations inherit from this class.

    All methods are Trio checkpoints. All raise RegistryError, always with `what`, `why` and `fix`: "denied" when the
    caller asks for what is not allowed (sizes: see `limits`) and nothing was changed, "unavailable" when the store is
    away, full or closed. After "unavailable" a network back end cannot know whether a transaction was done: repeat
    one only if doing it twice is harmless, or if `found` would show you your own value. A cancelled transaction was
    either done or not done, never by half; the local back ends return the result of one that was done.
    """

    async def snapshot(self, prefix: bytes) -> Snapshot:
        """Return all entries whose key starts with `prefix` (empty: all) at one revision.

        Never older than what any finished transaction, on any handle, has seen or written before the call.
        """
        ...

    def watch(self, prefix: bytes, after_revision: int) -> AbstractAsyncContextManager[Watch]:
        """Give every change under `prefix` with a revision above `after_revision`, once each.

        After 0 is everything since the store was made, if it still remembers that. A refusal that the back end knows
        only later ("compacted", "unavailable") is raised by `receive`.
        """
        ...

    async def transact(
        self,
        compares: Sequence[Compare] = (),
        puts: Mapping[bytes, bytes] = NOTHING,
        deletes: Sequence[bytes] = (),
        *,
        lease: LeaseId | None = None,
    ) -> Transaction:
        """If every compare holds, do all puts and deletes at one revision; otherwise nothing.

        A put under a `lease` binds the key to it; a put without frees the key from the lease it had. Deleting an
        absent key is nothing, and a transaction that changes nothing leaves the revision alone. A key may appear once
        in puts and deletes together. Raises LeaseLostError when the compares hold and the lease is gone.
        """
        ...

    async def grant(self, ttl_s: float) -> Lease:
        """Make a lease of `ttl_s` seconds, counted from the call. It may live a little longer, never shorter."""
        ...

    async def keep_alive(self, lease: LeaseId) -> None:
        """Start the lease's time again from the call. Raises LeaseLostError."""
        ...

    async def revoke(self, lease: LeaseId) -> None:
        """End the lease now; its keys are deleted at one revision, in byte order.

        A lease that is gone already is fine.
        """
        ...

    async def close(self) -> None:
        """Let go of the store. Waiting watches and later calls get "unavailable"; leases live on; twice is fine."""
        ...

    async def put(self, key: bytes, value: bytes, *, lease: LeaseId | None = None) -> Transaction:
        """Put one key, whatever it held."""
        return await self.transact((), {key: value}, lease=lease)

    async def create(self, key: bytes, value: bytes, *, lease: LeaseId | None = None) -> Transaction:
        """Put one key if it is absent. Of all that try at once, one succeeds; `found[key]` tells the others who."""
        return await self.transact((Absent(key),), {key: value}, lease=lease)

    async def compare_and_put(
        self, key: bytes, mod_revision: int, value: bytes, *, lease: LeaseId | None = None
    ) -> Transaction:
        """Put one key if nobody has touched it since `mod_revision` (0: if it is absent)."""
        return await self.transact((ModRevisionIs(key, mod_revision),), {key: value}, lease=lease)

    async def delete(self, key: bytes, *, mod_revision: int | None = None) -> Transaction:
        """Delete one key; with `mod_revision`, only if nobody has touched it since."""
        compares = () if mod_revision is None else (ModRevisionIs(key, mod_revision),)
        return await self.transact(compares, deletes=(key,))
