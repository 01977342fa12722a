"""Packets from records to the host: judged one by one, those of unfinished checksums joined again.

Responsible for the order of packets and for what the peer may send. Not responsible for who that is: `inspect` is the
caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from holloway.protocols.addresses import Address
from holloway.protocols.coalescing import Checksums, coalesce
from holloway.protocols.events import DropReason
from holloway.protocols.journal import Journal
from holloway.protocols.packets import IPV6_HEADER_BYTES, Packet, SuperPacket, count_packets
from holloway.protocols.record_wire import RecordKind


class Delivery:
    """Packets of one peer that wait to be taken, in order."""

    __slots__ = ("_journal", "inspect", "packets", "unfinished")

    def __init__(self, inspect: Callable[[bytes], DropReason | None], journal: Journal) -> None:
        self.inspect, self._journal = inspect, journal
        self.packets: list[Packet] = []
        self.unfinished: list[bytes] = []  # they come after `packets`

    def add(self, kind: RecordKind, packets: Sequence[Packet], source: Address) -> int:
        """Packets of an authentic record. How many of them are good, a super-packet counting as what it stands for."""
        if kind is RecordKind.SUPER_PACKETS and not self.unfinished:
            return self._add_super_packets(packets, source)
        inspect = self.inspect
        good: list[Packet] = []
        last = b""  # source and destination, in IPv4, of a packet that was good: of many packets most have the same
        for packet in packets:
            if last and not isinstance(packet, SuperPacket) and packet[12:20] == last and packet[0] >> 4 == 4:
                good.append(packet)
                continue
            reason = inspect(bytes(packet.data[:IPV6_HEADER_BYTES]) if isinstance(packet, SuperPacket) else packet)
            if reason is None:
                good.append(packet)
                last = packet[12:20] if not isinstance(packet, SuperPacket) and packet[0] >> 4 == 4 else b""
            else:
                self._journal.drop(reason, source, packet.count if isinstance(packet, SuperPacket) else 1)
        if kind is RecordKind.UNFINISHED:
            self.unfinished += good  # type: ignore[arg-type]  # this kind holds no super-packets; to ask each would cost
        else:
            if self.unfinished:
                self._join()
            self.packets += good
        return count_packets(good) if kind is RecordKind.SUPER_PACKETS else len(good)

    def _add_super_packets(self, packets: Sequence[Packet], source: Address) -> int:
        count = 0
        last = b""  # as above
        for packet in packets:
            assert isinstance(packet, SuperPacket)
            head = bytes(packet.data[:IPV6_HEADER_BYTES])
            pair = head[12:20]
            if pair != last or head[0] >> 4 != 4:
                reason = self.inspect(head)
                if reason is not None:
                    self._journal.drop(reason, source, packet.count)
                    continue
                last = pair if head[0] >> 4 == 4 else b""
            self.packets.append(packet)
            count += packet.count
        return count

    def add_own(self, packet: bytes) -> None:
        """A packet that we made for our own host."""
        self._join()
        self.packets.append(packet)

    def _join(self) -> None:
        if self.unfinished:
            self.packets += coalesce(self.unfinished, Checksums.GOOD)
            self.unfinished = []

    def take(self) -> list[Packet]:
        """Everything added since, ready for a device."""
        self._join()
        packets, self.packets = self.packets, []
        return packets
