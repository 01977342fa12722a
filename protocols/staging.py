"""Packets on their way to a key: super-packets cut up, and a bounded queue for those that come before there is a key.

Not responsible for how long they wait: that is `session`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from holloway.protocols.packets import Packet, SuperPacket

STAGED_PACKETS = 128  # wireguard-go, QueueStagedSize


class Staging:
    """The newest `STAGED_PACKETS` packets, in order: older ones make room, as nobody waits for those any more."""

    __slots__ = ("_packets",)

    def __init__(self) -> None:
        self._packets: deque[bytes] = deque(maxlen=STAGED_PACKETS)

    def __len__(self) -> int:
        return len(self._packets)

    def put(self, packets: Sequence[bytes]) -> int:
        """Queue `packets`. How many, of all, had to make room."""
        pushed_out = max(0, len(self._packets) + len(packets) - STAGED_PACKETS)
        self._packets.extend(packets)
        return pushed_out

    def take(self) -> list[bytes]:
        """All packets in order; the queue is empty then."""
        packets = list(self._packets)
        self._packets.clear()
        return packets


def unfold(packets: Sequence[Packet]) -> tuple[list[bytes], int]:
    """Whole packets, super-packets replaced by their segments; and how many super-packets were malformed."""
    whole: list[bytes] = []
    malformed = 0
    for packet in packets:
        if isinstance(packet, SuperPacket):
            segments = packet.segments()
            malformed += not segments
            whole += segments
        else:
            whole.append(packet)
    return whole, malformed
