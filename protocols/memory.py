"""How much memory the queues of one node may hold together: one budget, and a share of it for each queue.

A queue opens a share, takes from it what a thing costs before it keeps the thing, and gives back as much when the thing has
left. The rule is in two parts. One half of the budget is for what comes from our own host and waits for a key, perhaps for
minutes; the other is for what comes from the network, and neither can crowd out the other. And a share may hold at most a
quarter of what the others of its half leave: so the sum never exceeds the cap, nobody has more than an eighth of it, N queues
that are all flooded have a half / (N + 3) each, and one that has held nothing so far still finds three quarters of that. Nothing
is set aside for those who need nothing, and nothing is taken from those who hold: they keep it until it leaves, and come down to
what is fair when they want more.

Responsible for the counting, and for what packets and datagrams cost. Not responsible for what a queue does when it is refused:
it makes room by its own oldest, or drops what is new, and counts that as `DropReason.MEMORY_FULL`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holloway.protocols.errors import LocalError
from holloway.protocols.packets import Packet, SuperPacket
from holloway.protocols.sealing import SealingBuffers

if TYPE_CHECKING:
    from holloway.protocols.arrivals import Arrival

DEFAULT_MEMORY_BYTES = 64 << 20
SHARES = 4
"""A share may hold one part in so many of what the others of its half leave."""

# What Python needs beside the bytes themselves, rounded up; a test holds it against `tracemalloc`.
PACKET_OVERHEAD_BYTES = 64
SUPER_PACKET_OVERHEAD_BYTES = 512
ARRIVAL_OVERHEAD_BYTES = 512
MESSAGE_OVERHEAD_BYTES = 512


class MemoryBudget:
    """What the queues of a node hold, and may hold, in bytes."""

    __slots__ = ("_cap", "_peak", "host", "network", "sealing")

    def __init__(self, cap_bytes: int = DEFAULT_MEMORY_BYTES) -> None:
        """Raises `LocalError` unless `cap_bytes` is above 0."""
        if cap_bytes < 1:
            raise LocalError(f"a memory budget of {cap_bytes} bytes", "nothing could ever wait")
        self._cap = int(cap_bytes)
        self._peak = 0
        self.host = MemoryPool(self, self._cap // 2)
        """For packets that come from our host."""
        self.network = MemoryPool(self, self._cap // 2)
        """For datagrams that come from the network, and for what waits for its turn."""
        self.sealing = SealingBuffers()
        """Where the node's records are sealed. Not part of what is held: it is used again and again."""

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.held} of {self._cap} bytes>"

    @property
    def cap(self) -> int:
        """What `held` never exceeds."""
        return self._cap

    @property
    def held(self) -> int:
        """What all shares hold."""
        return self.host.held + self.network.held

    @property
    def peak(self) -> int:
        """The greatest `held` so far."""
        return self._peak


class MemoryPool:
    """One half of a budget."""

    __slots__ = ("_budget", "_cap", "_held")

    def __init__(self, budget: MemoryBudget, cap_bytes: int) -> None:
        self._budget, self._cap, self._held = budget, cap_bytes, 0

    @property
    def held(self) -> int:
        """What the shares of this half hold."""
        return self._held

    def share(self) -> MemoryShare:
        """A share for one more queue. It needs no closing: it is over when it holds nothing and nobody has it."""
        return MemoryShare(self)


class MemoryShare:
    """What one queue holds."""

    __slots__ = ("_held", "_pool")

    def __init__(self, pool: MemoryPool) -> None:
        self._pool = pool
        self._held = 0

    def __repr__(self) -> str:
        return f"<MemoryShare {self._held} of at most {self.limit} bytes>"

    @property
    def held(self) -> int:
        return self._held

    @property
    def limit(self) -> int:
        """What the share may hold now. It depends on the others alone: whoever gives enough of his own back finds room for
        anything that costs no more than this.
        """
        pool = self._pool
        return (pool._cap - pool._held + self._held) // SHARES

    def take(self, cost: int) -> bool:
        """Hold `cost` bytes more. False, and nothing is changed, if that is more than fair. Raises `LocalError` for a
        negative cost.
        """
        if cost < 0:
            raise LocalError(f"taking {cost} bytes", "a cost is never negative")
        if self._held + cost > self.limit:
            return False
        pool = self._pool
        self._held += cost
        pool._held += cost
        budget = pool._budget
        budget._peak = max(budget._peak, budget.held)
        return True

    def give(self, cost: int) -> None:
        """Hold `cost` bytes less. Raises `LocalError` for a negative cost, or more than is held, and changes nothing."""
        if not 0 <= cost <= self._held:
            raise LocalError(f"giving back {cost} bytes", f"the share holds {self._held}")
        self._held -= cost
        self._pool._held -= cost


def packet_cost(packet: Packet) -> int:
    """What it takes to keep a packet of the host, in bytes."""
    if isinstance(packet, SuperPacket):
        return len(packet.data) + SUPER_PACKET_OVERHEAD_BYTES
    return len(packet) + PACKET_OVERHEAD_BYTES


def packets_cost(packets: Sequence[Packet]) -> int:
    """What it takes to keep a batch of packets in one message."""
    return MESSAGE_OVERHEAD_BYTES + sum(map(packet_cost, packets))


def arrivals_cost(arrivals: Sequence[Arrival]) -> int:
    """What it takes to keep arrivals, in memory of their own, in one message."""
    return MESSAGE_OVERHEAD_BYTES + sum([len(data) + ARRIVAL_OVERHEAD_BYTES for _, data, _, _ in arrivals])
