"""Packets of one session that wait for a key: the queue, how long they wait, and telling of those that are lost.

Not responsible for the bounds of the queue (`staging`), nor for when there is a key: that is `session`.
"""

from __future__ import annotations

from collections.abc import Sequence

from holloway.protocols.events import DropReason
from holloway.protocols.journal import Journal
from holloway.protocols.memory import MemoryBudget
from holloway.protocols.packets import Packet, count_packets
from holloway.protocols.staging import Staging
from holloway.protocols.timers import SessionTimers


class Waiting:
    """See the head of this module. Times are monotonic seconds."""

    __slots__ = ("_journal", "_timers", "queue")

    def __init__(self, memory: MemoryBudget, timers: SessionTimers, journal: Journal) -> None:
        self.queue, self._timers, self._journal = Staging(memory), timers, journal

    def __len__(self) -> int:
        """How many wait; a super-packet is one."""
        return len(self.queue)

    @property
    def held_bytes(self) -> int:
        """Their length."""
        return self.queue.held_bytes

    def put(self, packets: Sequence[Packet], now: float) -> None:
        """They wait from now on. The oldest make room."""
        self._timers.packets_staged(now)
        displaced = self.queue.put(packets)
        self._journal.drop(DropReason.STAGING_FULL, None, count_packets(displaced.by_bounds))
        self._journal.drop(DropReason.MEMORY_FULL, None, count_packets(displaced.by_memory))

    def peek(self) -> tuple[Packet, ...]:
        """All of them in order; they stay."""
        return self.queue.peek()

    def take(self) -> list[Packet]:
        """All of them in order: they wait no more."""
        self._timers.nothing_staged()
        return self.queue.take()

    def discard(self, reason: DropReason) -> None:
        """They have waited in vain."""
        self._journal.drop(reason, None, count_packets(self.take()))
