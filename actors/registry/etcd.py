"""The registry in etcd: for nodes that share nothing but a network.

The port's words are etcd's, so a method here is one call, and etcd keeps the promises: transactions and snapshots are
linearizable, a revision is counted once for the whole cluster, and leases are the cluster's own.

Responsible for translating calls, for snapshots in pages of one revision, and for opening and closing. NOT responsible
for the connection (`etcd_client`), watches (`etcd_watch`), or messages (`etcd_space`). After "unavailable", nothing is
tried again: a transaction may have been done, and only its caller knows whether to repeat it. The handle itself stays
usable, and connects again, to whichever server answers, with the next call.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from holloway.actors.registry.etcd_client import EtcdClient, EtcdTiming, connect
from holloway.actors.registry.etcd_errors import COMPACTED, LEASE_NOT_FOUND, TOO_BIG_TO_RECEIVE, Refusal
from holloway.actors.registry.etcd_files import load_material
from holloway.actors.registry.etcd_loop import Errand, Errands, shared_loop
from holloway.actors.registry.etcd_messages import LEASE_GRANT, LEASE_REVOKE, RANGE, TXN, Method, load_messages
from holloway.actors.registry.etcd_place import find
from holloway.actors.registry.etcd_space import Space
from holloway.actors.registry.etcd_url import EtcdAddress
from holloway.actors.registry.etcd_watch import EtcdWatch
from holloway.actors.registry.limits import (
    check_lease,
    check_prefix,
    check_revision,
    check_transaction,
    check_ttl,
    closed,
    size_of,
)
from holloway.actors.registry.port import (
    NOTHING,
    Compare,
    Entry,
    Lease,
    LeaseId,
    LeaseLostError,
    RegistryPort,
    Snapshot,
    Transaction,
    Watch,
)
from holloway.protocols.errors import RegistryError

PAGE_ENTRIES = 1024
SNAPSHOT_TRIES = 3
SNAPSHOT_BYTES_MAX = 128 * 1_048_576  # as `size_of` counts; twice what a store of one machine may hold
DEFAULT_TIMING = EtcdTiming()


@asynccontextmanager
async def open_etcd(address: EtcdAddress, timing: EtcdTiming = DEFAULT_TIMING) -> AsyncIterator[EtcdRegistry]:
    """Open a handle, and close it at the end. Connects with the first call, so a server that is away shows then.

    Raises RegistryError for a file that cannot be used or a host that nobody knows.
    """
    messages = load_messages()
    place, material = await find(address, load_material(address), timing)
    async with shared_loop() as loop:
        errands = Errands(loop)
        client = await errands.run(connect(place, material, address.user, messages, timing), 0.0)
        registry = EtcdRegistry(errands, client, Space(address.prefix, messages), timing)
        try:
            yield registry
        finally:
            await registry.close()
            with trio.CancelScope(shield=True):
                await Errand(loop, client.close()).wait()


class EtcdRegistry(RegistryPort):
    """One handle. Made by `open_etcd`."""

    def __init__(self, errands: Errands, client: EtcdClient, space: Space, timing: EtcdTiming) -> None:
        self._errands = errands
        self._client = client
        self._space = space
        self._last_word_s = timing.last_word_s

    async def snapshot(self, prefix: bytes) -> Snapshot:
        check_prefix(prefix)
        for _ in range(SNAPSHOT_TRIES):
            try:
                return await self._pages(prefix)
            except Refusal as error:
                if not error.says(COMPACTED):
                    raise
        raise RegistryError(
            "No snapshot could be taken",
            "the store forgets its history while we read page after page of it",
            "compact less often: etcd's --auto-compaction-retention",
        )

    @asynccontextmanager
    async def watch(self, prefix: bytes, after_revision: int) -> AsyncIterator[Watch]:
        check_prefix(prefix)
        check_revision(after_revision)
        await trio.lowlevel.checkpoint()
        if not self._errands.is_open:
            raise closed()
        watch = EtcdWatch(self._errands, self._client, self._space, prefix, after_revision)
        try:
            yield watch
        finally:
            await watch.close()

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
        space = self._space
        compared = list(dict.fromkeys(compare.key for compare in compares))
        changes = [space.put(key, value, lease) for key, value in puts.items()]
        changes += [space.delete(key) for key in deletes]
        try:
            answer = await self._call(
                TXN,
                compare=[space.compare(compare) for compare in compares],
                # Without changes there is still a look at some key: of nothing at all, a member tells what it knows
                # itself, which may be old.
                success=changes or [space.get(b"")],
                failure=[space.get(key) for key in compared],
            )
        except Refusal as error:
            if lease is not None and error.says(LEASE_NOT_FOUND):
                raise LeaseLostError(lease) from error
            raise
        if answer.succeeded:
            return Transaction(True, answer.header.revision)
        found = [kv for response in answer.responses for kv in response.response_range.kvs]
        return Transaction(False, answer.header.revision, dict(map(space.pair, found)))

    async def grant(self, ttl_s: float) -> Lease:
        check_ttl(ttl_s)
        answer = await self._call(LEASE_GRANT, TTL=math.ceil(ttl_s))
        return Lease(LeaseId(answer.ID), float(answer.TTL))

    async def keep_alive(self, lease: LeaseId) -> None:
        check_lease(lease)
        await trio.lowlevel.checkpoint()
        if not await self._errands.run(self._client.keep_alive(lease), self._last_word_s):
            raise LeaseLostError(lease)

    async def revoke(self, lease: LeaseId) -> None:
        check_lease(lease)
        try:
            await self._call(LEASE_REVOKE, ID=lease)
        except Refusal as error:
            if not error.says(LEASE_NOT_FOUND):
                raise

    async def close(self) -> None:
        await self._errands.end()
        await trio.lowlevel.checkpoint()

    async def _pages(self, prefix: bytes) -> Snapshot:
        """All entries at the revision of the first page. A page that is too big to be received is halved."""
        key, end = self._space.range_of(prefix)
        entries: dict[bytes, Entry] = {}
        revision, limit, size = 0, PAGE_ENTRIES, 0
        while True:
            try:
                page = await self._call(RANGE, key=key, range_end=end, revision=revision, limit=limit)
            except Refusal as error:
                if not error.says(TOO_BIG_TO_RECEIVE) or limit == 1:
                    raise
                limit //= 2
                continue
            revision = revision or page.header.revision
            for own, entry in map(self._space.pair, page.kvs):
                entries[own] = entry
                size += size_of(own, entry.value)
            if not page.more:
                return Snapshot(revision, entries)
            if size > SNAPSHOT_BYTES_MAX:
                raise RegistryError(
                    "The snapshot is too big",
                    f"there are more than {SNAPSHOT_BYTES_MAX} bytes under {prefix!r}",
                    "see who fills the store: etcdctl get --prefix --keys-only PREFIX",
                )
            key = page.kvs[-1].key + b"\0"

    async def _call(self, method: Method, **fields: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return await self._errands.run(self._client.call(method, **fields), self._last_word_s)
