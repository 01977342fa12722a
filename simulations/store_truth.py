"""What the simulated registry really holds, whatever the nodes are told about it.

Responsible for the store itself (the registry in memory), when each revision came to be, so that news of it can arrive
later, and whose each lease is. Not responsible for faults, nor for talking to anybody (`store`, `store_door`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from holloway.actors.registry import Lease, LeaseId, Limits, MemoryRegistry
from holloway.simulations.store_line import Life


@dataclass(slots=True)
class _Holding:
    """A lease as the truth knows it. `is_told`: its owner has had the answer."""

    life: Life
    ttl_s: float
    deadline: float
    is_told: bool = False


class Truth:
    """The store. `memory` changes only through those who call `newest` in the same step, so that the time is known."""

    def __init__(self, limits: Limits, longest_s: float) -> None:
        """`longest_s`: no news travels longer."""
        self.memory = MemoryRegistry(limits)
        self._longest_s = longest_s
        self._made: deque[tuple[float, int]] = deque([(-math.inf, 0)])
        """Times, and the newest revision there was then; of all that nobody waits for, the last alone."""
        self._leases: dict[LeaseId, _Holding] = {}

    # Revisions.

    def newest(self) -> int:
        """The newest revision, after everything that is due by now."""
        now = trio.current_time()
        for lease in [lease for lease, held in self._leases.items() if held.deadline <= now]:
            self._lose(lease, "expired")
        revision = self.memory.transact((), {}, (), None).revision
        if revision > self._made[-1][1]:
            self._made.append((now, revision))
            while len(self._made) > 1 and self._made[1][0] + self._longest_s <= now:
                self._made.popleft()
        return revision

    def arrived(self, delay_s: float) -> tuple[int, float]:
        """The newest revision of which news has come by now when it takes `delay_s`, and when the next news comes."""
        now, next_at = trio.current_time(), math.inf
        for made_at, revision in reversed(self._made):
            if made_at + delay_s <= now:
                return revision, next_at
            next_at = made_at + delay_s
        return 0, next_at

    # Leases.

    def grant(self, ttl_s: float, life: Life) -> Lease:
        """See `RegistryPort.grant`."""
        self.newest()
        lease = self.memory.grant(ttl_s)
        self._leases[lease.id] = _Holding(life, lease.ttl_s, trio.current_time() + lease.ttl_s)
        life.line.tell(f"lease {lease.id} granted")
        if life.has_lost_lease:
            life.has_lost_lease = False
            life.line.reach("lease_retaken")
        return lease

    def tell(self, lease: LeaseId) -> None:
        """The answer has come to whom the lease was granted."""
        held = self._leases.get(lease)
        if held is not None:
            held.is_told = True

    def keep_alive(self, lease: LeaseId) -> None:
        """See `RegistryPort.keep_alive`."""
        self.memory.keep_alive(lease)
        held = self._leases.get(lease)
        if held is not None:
            held.deadline = trio.current_time() + held.ttl_s

    def revoke(self, lease: LeaseId, life: Life) -> None:
        """See `RegistryPort.revoke`. Its owner, asking himself, has lost nothing."""
        self.newest()
        self.memory.revoke(lease)
        held = self._leases.get(lease)
        if held is not None and held.life is life:
            del self._leases[lease]
            life.line.tell(f"lease {lease} revoked")
        elif held is not None:
            self._lose(lease, "revoked by another")

    def lose_leases(self, befalls: Callable[[str], bool]) -> None:
        """Every lease granted to a node that `befalls` names vanishes, with its keys."""
        self.newest()
        for lease, held in list(self._leases.items()):
            if befalls(held.life.line.node):
                self.memory.revoke(lease)
                self._lose(lease, "lost")
        self.newest()

    def _lose(self, lease: LeaseId, how: str) -> None:
        held = self._leases.pop(lease)
        held.life.has_lost_lease = held.life.has_lost_lease or held.is_told
        held.life.line.tell(f"lease {lease} {how}")
