"""Packets that come before there is a key to seal them with: a bounded queue.

Not responsible for how long they wait: that is `session`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from holloway.protocols.memory import MemoryBudget, packet_cost
from holloway.protocols.packets import Packet, byte_length

STAGED_PACKETS = 128  # wireguard-go, QueueStagedSize; a super-packet counts as one
STAGED_BYTES = 1 << 20


class Displaced(NamedTuple):
    """Packets that wait no more, in order: by the bounds of the queue, and by the memory of the node."""

    by_bounds: list[Packet]
    by_memory: list[Packet]


class Staging:
    """The newest `STAGED_PACKETS` packets and `STAGED_BYTES` in order: older ones make room, as nobody waits for those
    any more. They also make room when the node has no more memory for us; only what would not fit in all of our share is
    refused itself.
    """

    __slots__ = ("_bytes", "_share", "packets")

    def __init__(self, memory: MemoryBudget | None = None) -> None:
        """`memory`: what packets take from, by default a budget of their own."""
        self.packets: Final[deque[Packet]] = deque()
        self._bytes = 0
        self._share = (memory or MemoryBudget()).host.share()

    def __len__(self) -> int:
        """How many wait; a super-packet is one."""
        return len(self.packets)

    @property
    def held_bytes(self) -> int:
        """Their length, at most `STAGED_BYTES`."""
        return self._bytes

    @property
    def cost_bytes(self) -> int:
        """What they take of the node's memory."""
        return self._share.held

    def put(self, packets: Iterable[Packet]) -> Displaced:
        """Queue `packets`. Those, of all, that had to make room or found none."""
        queue, share = self.packets, self._share
        displaced = Displaced([], [])
        for packet in packets:
            length = byte_length(packet)
            while queue and (len(queue) >= STAGED_PACKETS or self._bytes + length > STAGED_BYTES):
                displaced.by_bounds.append(self._push_out())
            if length > STAGED_BYTES:
                displaced.by_bounds.append(packet)
                continue
            cost = packet_cost(packet)
            if cost > share.limit:
                displaced.by_memory.append(packet)
                continue
            while not share.take(cost):
                displaced.by_memory.append(self._push_out())
            queue.append(packet)
            self._bytes += length
        return displaced

    def _push_out(self) -> Packet:
        oldest = self.packets.popleft()
        self._bytes -= byte_length(oldest)
        self._share.give(packet_cost(oldest))
        return oldest

    def peek(self) -> tuple[Packet, ...]:
        """All packets in order; they stay."""
        return tuple(self.packets)

    def take(self) -> list[Packet]:
        """All packets in order; the queue is empty then."""
        packets = list(self.packets)
        self.packets.clear()
        self._bytes = 0
        self._share.give(self._share.held)
        return packets
