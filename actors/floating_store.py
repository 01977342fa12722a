"""What a floating address asks of the registry, carried out: one operation of the pure machine, and its answer.

Not responsible for when something is asked (`protocols.floating`), nor for opening the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import trio

from holloway.actors.registry import Absent, Entry, LeaseLostError, ModRevisionIs, RegistryPort
from holloway.actors.registry.port import LeaseId
from holloway.protocols.errors import RegistryError
from holloway.protocols.floating_operations import FloatingLease, Key, Kind, LeaseUse, Operation, Seen

LAST_WORD_S = 1.0
"""How long giving back a lease that is good for nothing may take; it runs out by itself."""
UNREADABLE = b""
"""What stands for a value that is not believed: the machine takes it for a claim that nobody can read."""


@dataclass(frozen=True, slots=True)
class Looked:
    """Both keys, as they were at `revision` or later."""

    revision: int
    claim: Seen | None
    challenge: Seen | None


@dataclass(frozen=True, slots=True)
class Done:
    """It was done, at `revision`, with `lease` if one was asked for."""

    revision: int
    lease: FloatingLease | None = None


class Failure(Enum):
    """It was not done, or nobody knows."""

    REFUSED = "refused"
    UNANSWERED = "unanswered"


Answer: TypeAlias = Looked | Done | Failure


class Place:
    """Where one floating address stands in the registry: its two keys, and how values go there and come back."""

    def __init__(
        self,
        keys: dict[Key, bytes],
        seal: Callable[[Key, int, bytes], bytes],
        believed: Callable[[Key, Entry], bytes | None],
    ) -> None:
        """`seal` makes a value under a lease; `believed` gives what a value says, None when it is not believed."""
        self.keys = keys
        self._seal, self._believed = seal, believed

    def seen(self, key: Key, entry: Entry | None) -> Seen | None:
        """What the machine is told of an entry."""
        if entry is None:
            return None
        value = self._believed(key, entry)
        return Seen(UNREADABLE if value is None else value, entry.create_revision, entry.mod_revision)

    async def carry_out(self, registry: RegistryPort, operation: Operation) -> Answer:
        """Ask, and wait for the answer for as long as it takes. What was made for nothing when cancelled is given back."""
        try:
            if operation.kind is Kind.LOOK:
                return await self._look(registry)
            if operation.lease is LeaseUse.NEW:
                return await self._put(registry, operation)
            if operation.lease is LeaseUse.KEEP and operation.kept_lease is not None:
                await registry.keep_alive(LeaseId(operation.kept_lease))
            return await self._transact(registry, operation, None)
        except LeaseLostError:
            return Failure.REFUSED
        except RegistryError:
            return Failure.UNANSWERED

    async def _look(self, registry: RegistryPort) -> Looked:
        """Two snapshots, and the older revision: what comes between them is told by the watch, or found the next time."""
        claim_key, challenge_key = self.keys[Key.CLAIM], self.keys[Key.CHALLENGE]
        first = await registry.snapshot(claim_key)
        second = await registry.snapshot(challenge_key)
        claim = self.seen(Key.CLAIM, first.entries.get(claim_key))
        return Looked(first.revision, claim, self.seen(Key.CHALLENGE, second.entries.get(challenge_key)))

    async def _put(self, registry: RegistryPort, operation: Operation) -> Answer:
        lease = await registry.grant(operation.ttl_s)
        answer: Answer = Failure.UNANSWERED
        try:
            answer = await self._transact(registry, operation, FloatingLease(lease.id, lease.ttl_s))
        finally:
            if not isinstance(answer, Done):
                with trio.move_on_after(LAST_WORD_S, shield=True), suppress(RegistryError):
                    await registry.revoke(lease.id)
        return answer

    async def _transact(self, registry: RegistryPort, operation: Operation, lease: FloatingLease | None) -> Answer:
        keys = self.keys
        done = await registry.transact(
            [
                ModRevisionIs(keys[key], revision) if revision else Absent(keys[key])
                for key, revision in operation.compares
            ],
            {keys[key]: self._seal(key, 0 if lease is None else lease.id, value) for key, value in operation.puts},
            [keys[key] for key in operation.deletes],
            lease=None if lease is None else LeaseId(lease.id),
        )
        return Done(done.revision, lease) if done.succeeded else Failure.REFUSED
