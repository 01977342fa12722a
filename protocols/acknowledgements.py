"""Acknowledgements of TCP that a later one of the same batch says better.

A host that receives a bulk flow acknowledges every super-packet, and by the time its packets are taken several such
acknowledgements wait in a row. They would travel in one datagram and arrive in one instant; the last of them tells all that the
others do, and each costs the sender's node and kernel as much as a packet of data. Only what waits already is looked at: nothing
waits for the sake of it.

Superseded is a packet that does nothing but acknowledge (no payload, no flag but ACK, no option but timestamps), when a later one
in the same row of such packets, in the same connection, acknowledges more. The last ones stay, duplicates and all; and so does
whatever has SACK blocks or ECN-Echo, and what comes before it.

Source: RFC 3449, section 5.2.1 (ACK filtering). Not responsible for anything that is not TCP.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from holloway.protocols.packets import PROTOCOL_TCP, Packet

_ACK_ALONE = 0x10
_PLAIN_HEADER, _HEADER_WITH_TIMESTAMPS = 0x50, 0x80  # data offset, and bits that must be 0 (RFC 9293, section 3.1)
_TIMESTAMPS = b"\x01\x01\x08\x0a"  # as nearly everybody sends them (RFC 7323, appendix A)
_LENGTHS = frozenset({40, 52, 60, 72})  # IPv4 or IPv6, without and with timestamps
_NUMBER = Struct(">I").unpack
_RANGE = 1 << 32


def without_superseded(packets: Sequence[Packet]) -> Sequence[Packet]:
    """The packets of one batch, in order, without acknowledgements that a later one supersedes."""
    kept: list[Packet] = []
    newest: dict[bytes, bytes] = {}
    for packet in reversed(packets):
        if not isinstance(packet, bytes) or len(packet) not in _LENGTHS or (at := _tcp_at(packet)) == 0:
            newest.clear()
        else:
            # Who to whom, with what class and label, which connection, and the sequence number that comes next.
            flow = packet[: 4 if at == 40 else 2] + packet[at - 32 if at == 40 else 12 : at + 8]
            later, number = newest.get(flow), packet[at + 8 : at + 12]
            if later is not None and 0 < (_NUMBER(later)[0] - _NUMBER(number)[0]) % _RANGE < _RANGE // 2:
                continue
            newest[flow] = number
        kept.append(packet)
    if len(kept) == len(packets):
        return packets
    kept.reverse()
    return kept


class Row:
    """Acknowledgements of one connection that follow each other, with timestamps, in IPv4: looked at as they come, before anybody has
    finished their checksums. `skip`: bytes before each packet, in which they are alike, too.
    """

    __slots__ = ("_alike", "_look", "_number", "length")

    def __init__(self, skip: int) -> None:
        self._look = Struct(f">{skip + 4}s2x4s2x16sI2s6x4s8x").unpack
        self.length = skip + 52
        """Of each: nothing else is to be asked about."""
        self._alike: tuple[object, ...] | None = None
        self._number = 0

    def supersedes(self, data: bytes) -> bool:
        """Whether `data` supersedes what was asked about before it, if that came immediately before it."""
        head, middle, flow, number, offset_and_flags, options = self._look(data)
        alike = head, middle, flow, offset_and_flags, options
        before, self._number = self._number, number
        if alike == self._alike:
            return bool(0 < (number - before) % _RANGE < _RANGE // 2)
        self._alike = (
            alike
            if head[-4] == 0x45
            and head[-2:] == b"\x00\x34"
            and middle[3] == PROTOCOL_TCP
            and not (middle[0] & 0x3F or middle[1])
            and offset_and_flags == b"\x80\x10"
            and options == _TIMESTAMPS
            else None
        )
        return False


def _tcp_at(packet: bytes) -> int:
    """Where the TCP header of a packet that only acknowledges begins; 0 for any other packet."""
    length = len(packet)
    if packet[0] == 0x45:
        at = 20
        is_whole = (
            packet[9] == PROTOCOL_TCP and not (packet[6] & 0x3F or packet[7]) and packet[2] << 8 | packet[3] == length
        )
    else:
        at = 40
        is_whole = length >= 60 and packet[0] >> 4 == 6 and packet[6] == PROTOCOL_TCP
        is_whole = is_whole and packet[4] << 8 | packet[5] == length - 40
    if not is_whole or packet[at + 13] != _ACK_ALONE:
        return 0
    offset = packet[at + 12]
    if offset == _PLAIN_HEADER:
        return at if length == at + 20 else 0
    return (
        at
        if offset == _HEADER_WITH_TIMESTAMPS and length == at + 32 and packet[at + 20 : at + 24] == _TIMESTAMPS
        else 0
    )
