"""Inner packets as programs make them: plain ones, and TCP and UDP ones in super-packets, as a device with offloads reads them.

Every packet begins its payload with what it is for, a serial number and the marker, each segment of a super-packet with one
of its own. Not responsible for serial numbers, nor for what has become of a packet (`ledger`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import Enum

from holloway.protocols.packets import (
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    TCP_HEADER_BYTES,
    UDP_HEADER_BYTES,
    ByteView,
    SuperPacket,
    internet_checksum,
    transport,
)
from holloway.simulations.oracles import MARKER

_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_TCP = struct.Struct(">HHIIBBHHH")
_UDP = struct.Struct(">HHHH")
_TAIL = struct.Struct(">BQ")  # what a packet is for, serial number
TAIL_BYTES = _TAIL.size
_EXPERIMENTAL_PROTOCOL = 253  # RFC 3692, section 2.1
_FILLER = b"\xa5"
_DO_NOT_FRAGMENT = 0x4000
_ACK_PSH, _FIVE_WORDS = 0x18, 5 << 4
_ICMP, _ICMPV6 = 1, 58
_TTL, _WINDOW = 64, 0xFFFF
_PORTS = 5001, 5002

MIN_SEGMENT_BYTES = 96
"""A packet of a super-packet has room for the longest headers here, and for what every packet tells."""
MAX_SEGMENTS = 64
"""Of one super-packet: as many datagrams as the kernel takes of UDP."""
MAX_SUPER_BYTES = 65_000


class Form(Enum):
    """What a super-packet is: the version of IP, and the protocol."""

    TCP_IPV4 = (4, PROTOCOL_TCP)
    UDP_IPV6 = (6, PROTOCOL_UDP)
    TCP_IPV6 = (6, PROTOCOL_TCP)
    UDP_IPV4 = (4, PROTOCOL_UDP)

    @property
    def version(self) -> int:
        return self.value[0]

    @property
    def header_bytes(self) -> int:
        version, protocol = self.value
        return (IPV4_HEADER_BYTES if version == 4 else IPV6_HEADER_BYTES) + (
            TCP_HEADER_BYTES if protocol == PROTOCOL_TCP else UDP_HEADER_BYTES
        )


FORMS = tuple(Form)


def plain(purpose: int, serial: int, size: int, source: bytes, destination: bytes) -> bytes:
    """An IPv4 packet of `size` bytes that is neither TCP nor UDP."""
    header = _IPV4.pack(0x45, 0, size, 0, 0, _TTL, _EXPERIMENTAL_PROTOCOL, 0, source, destination)
    return header + _payload(purpose, serial, size - len(header))


def super_packet(
    form: Form,
    purpose: int,
    first: int,
    sizes: Sequence[int],
    source: bytes,
    destination: bytes,
    *,
    identification: int,
    sequence: int,
) -> SuperPacket:
    """One super-packet with a segment for each of `sizes`, in bytes of IP packets: all of them equal but the last, which may
    be less. Their serial numbers count from `first`. The checksums are not filled in, as the kernel leaves them.
    """
    version, protocol = form.value
    begin = form.header_bytes
    payload = b"".join(_payload(purpose, first + number, size - begin) for number, size in enumerate(sizes))
    length = begin + len(payload)
    if version == 4:
        header = _IPV4.pack(0x45, 0, length, identification, _DO_NOT_FRAGMENT, _TTL, protocol, 0, source, destination)
    else:
        header = _IPV6.pack(6 << 28, length - IPV6_HEADER_BYTES, protocol, _TTL, source, destination)
    if protocol == PROTOCOL_TCP:
        header += _TCP.pack(*_PORTS, sequence, 1, _FIVE_WORDS, _ACK_PSH, _WINDOW, 0, 0)
    else:
        header += _UDP.pack(*_PORTS, length - len(header), 0)
    return SuperPacket(header + payload, sizes[0] - begin)


def _payload(purpose: int, serial: int, size: int) -> bytes:
    return (_TAIL.pack(purpose, serial) + MARKER).ljust(size, _FILLER)


def read(packet: bytes) -> tuple[int, int] | None:
    """Purpose and serial number of a packet; None when it has none."""
    at: int | None = IPV4_HEADER_BYTES
    if packet[9:10] != bytes((_EXPERIMENTAL_PROTOCOL,)) or packet[0] >> 4 != 4:
        at = _payload_at(packet)
    if at is None or len(packet) < at + TAIL_BYTES:
        return None
    purpose, serial = _TAIL.unpack_from(packet, at)
    return purpose, serial


def _payload_at(packet: bytes) -> int | None:
    found = transport(packet)
    if found is None:
        return None
    protocol, at = found
    if protocol == PROTOCOL_UDP:
        return at + UDP_HEADER_BYTES
    if protocol == PROTOCOL_TCP and len(packet) >= at + TCP_HEADER_BYTES:
        return at + (packet[at + 12] >> 4) * 4
    return None


def is_too_big(packet: bytes) -> bool:
    """Whether this is the ICMP message that a packet was too long (RFC 1191, RFC 8201)."""
    if packet[0] >> 4 == 4:
        return packet[9] == _ICMP and packet[20:22] == b"\3\4"
    return packet[6] == _ICMPV6 and packet[40:42] == b"\2\0"


def as_seen(packet: bytes) -> bytes:
    """What a packet means to whoever gets it: the IPv4 identification means nothing where fragmenting is forbidden (RFC
    6864, section 4.1), so joining and cutting may number such packets anew. One whose header checksum is wrong is left as
    it is.
    """
    if packet[0] == 0x45 and packet[6] & 0x40 and internet_checksum(packet[:IPV4_HEADER_BYTES]) == 0:
        return b"".join((packet[:4], b"\0\0", packet[6:10], b"\0\0", packet[12:]))
    return packet


def serials(plaintext: ByteView) -> list[int]:
    """The serial numbers of all packets in a plaintext, of whatever form."""
    data = bytes(plaintext)
    found = []
    at = data.find(MARKER)
    while at >= TAIL_BYTES:
        found.append(_TAIL.unpack_from(data, at - TAIL_BYTES)[1])
        at = data.find(MARKER, at + len(MARKER))
    return found
