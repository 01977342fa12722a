"""What a session has to tell its owner: events in order, counts of what was dropped, and of what went through. Bounded.

Not responsible for who reads it, nor for logging.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from holloway.protocols.addresses import Address
from holloway.protocols.compression import Packing
from holloway.protocols.events import DropReason, Event, PacketDropped

EVENTS = 256
"""Unread events beyond this push out the oldest ones."""
DROP_EVENTS = 128
"""No drop is told while this many events are unread, so that a flood cannot push out other news; `drops` counts it."""


@dataclass(slots=True)
class Traffic:
    """Inner packets, and bytes of authentic datagrams of every kind, in one direction."""

    packets: int = 0
    bytes: int = 0


class Journal:
    """Events until they are read, drops for ever."""

    __slots__ = ("drops", "events", "packing")

    def __init__(self) -> None:
        self.drops: Counter[DropReason] = Counter()
        self.events: deque[Event] = deque(maxlen=EVENTS)
        """Unread, oldest first."""
        self.packing = Packing()

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def drop(self, reason: DropReason, source: Address | None, count: int = 1) -> None:
        """Count `count` drops, and tell of them unless there are none or too much is unread."""
        if count:
            self.drops[reason] += count
            if len(self.events) < DROP_EVENTS:
                self.events.append(PacketDropped(reason, source, count))
