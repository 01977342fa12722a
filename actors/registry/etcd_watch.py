"""A watch on etcd: its events become batches of changes, each revision whole.

Responsible for where a watch begins, for the changes between etcd's answer and the reader, and for what ends it. NOT
responsible for the stream (`etcd_client`).

At most one of etcd's answers is held here. While its changes are not read, no other is asked for: then etcd waits,
keeps nothing for us but its own history, and says so when it compacts that. So a slow reader costs nothing.

A watch asks for the revision that it has already, too, and drops it. etcd can compact up to a revision R which
deletes a key, and then still serves a watch from R, without that deletion; a watch from R-1 it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from holloway.actors.registry.etcd_client import MESSAGE_BYTES_MAX, CompactedAt, EtcdClient, WatchStream
from holloway.actors.registry.etcd_errors import TOO_BIG_TO_RECEIVE, Refusal
from holloway.actors.registry.etcd_loop import Errand, Errands, end
from holloway.actors.registry.etcd_messages import RANGE
from holloway.actors.registry.etcd_space import Space
from holloway.actors.registry.limits import BATCH_CHANGES, closed, compacted, never_reached
from holloway.actors.registry.port import Change, Changes, Watch
from holloway.protocols.errors import RegistryError


class EtcdWatch(Watch):
    """See `Watch`."""

    def __init__(self, errands: Errands, client: EtcdClient, space: Space, prefix: bytes, after: int) -> None:
        self._errands = errands
        self._client = client
        self._space = space
        self._prefix = prefix
        self._after = after
        self._stream: WatchStream | None = None
        self._reading = False
        self._is_open = True
        self._errand: Errand[Iterator[Changes]] | None = None
        self._failure: RegistryError | None = None

    async def receive(self) -> Changes:
        if self._reading:
            raise RegistryError(
                "The watch is being read already",
                "two tasks called receive at once, and each change is given once",
                "open one watch for each task",
                kind="denied",
            )
        self._reading = True
        try:
            while self._is_open:
                if self._failure is not None:
                    raise self._failure
                if self._errand is None:
                    self._errand = self._errands.start(self._fetch())
                # Cancelled here, the errand goes on, and the next call finds what it brings.
                await self._errand.wait()
                batch = self._take()
                if batch:
                    return batch
            raise closed()
        finally:
            self._reading = False

    def _take(self) -> Changes:
        """The next batch of what the errand brought, or nothing: then the errand is done with."""
        assert self._errand is not None
        try:
            brought = self._errand.result()
        except RegistryError as error:
            self._failure = error
            raise
        batch = next(brought, ())
        if not batch:
            self._errand = None
        return batch

    async def close(self) -> None:
        """End it, and wake its reader."""
        self._is_open = False
        if self._errand is not None:
            await end(self._errand)
        if self._stream is not None:
            self._stream.cancel()

    async def _fetch(self) -> Iterator[Changes]:
        """Asyncio's side: begin if need be, and bring etcd's next answer."""
        try:
            if self._stream is None:
                self._stream = await self._begin()
            answer = await self._stream.read()
        except CompactedAt as error:
            raise compacted(self._after, error.revision) from error
        except Refusal as error:
            if error.says(TOO_BIG_TO_RECEIVE):
                raise _too_far_behind(self._after) from error
            raise
        fresh = (change for change in map(self._space.change, answer.events) if change.revision > self._after)
        return batches(fresh)

    async def _begin(self) -> WatchStream:
        key, end_of_range = self._space.range_of(self._prefix)
        stream = await self._client.watch(key=key, range_end=end_of_range, start_revision=max(self._after, 1))
        if stream.revision < self._after:
            # A member that lags behind, or a store that was made anew? The leader knows.
            try:
                answer = await self._client.call(RANGE, key=key, range_end=end_of_range, count_only=True)
                if answer.header.revision < self._after:
                    raise never_reached(self._after, answer.header.revision)
            except BaseException:
                stream.cancel()
                raise
        return stream


def batches(changes: Iterable[Change]) -> Iterator[Changes]:
    """Cut changes, ordered by revision, into batches of BATCH_CHANGES and the rest of the last revision.

    One by one: thousands of changes may have come at once, and other tasks run between two batches.
    """
    batch: list[Change] = []
    for _, group in groupby(changes, lambda change: change.revision):
        batch.extend(group)
        if len(batch) >= BATCH_CHANGES:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)


def _too_far_behind(after: int) -> RegistryError:
    """A snapshot comes in pages, and can be taken all the same."""
    return RegistryError(
        f"The changes after revision {after} are too many to take",
        f"etcd sends what was missed in messages that here must not be larger than {MESSAGE_BYTES_MAX} bytes",
        "take a new snapshot and watch from its revision",
        kind="compacted",
    )
