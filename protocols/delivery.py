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
        inspect = self.inspect
        if len(packets) == 1 and kind is RecordKind.SUPER_PACKETS and not self.unfinished:  # a bulk flow
            only = packets[0]
            assert isinstance(only, SuperPacket)
            if inspect(bytes(only.data[:IPV6_HEADER_BYTES])) is None:
                self.packets.append(only)
                return only.count
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
