"""Inner IP packets on the hot path: whose they are, where one ends and the next begins, and cutting super-packets up.

Not responsible for routing, for ICMP, or for anything a link does below IP. Packets come from a local program or from an
authenticated but possibly hostile peer: no function here raises for any bytes, they say None, 0 or an empty list.

Offsets are those of RFC 791 section 3.1 (IPv4), RFC 8200 sections 3 and 4 (IPv6 and its extension headers), RFC 9293
section 3.1 (TCP) and RFC 768 (UDP).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct
from typing import NamedTuple, TypeAlias

IPV4_HEADER_BYTES = 20  # RFC 791, section 3.1, without options
IPV6_HEADER_BYTES = 40  # RFC 8200, section 3
UDP_HEADER_BYTES = 8  # RFC 768
TCP_HEADER_BYTES = 20  # RFC 9293, section 3.1, without options
PROTOCOL_TCP = 6  # RFC 9293, section 3.1; IANA protocol numbers
PROTOCOL_UDP = 17  # RFC 768
MAX_EXTENSION_HEADERS = 8  # RFC 8200, section 4.1 lists seven for a packet that uses each of them
# A packet of 65535 bytes cut as small as Linux ever cuts TCP: TCP_MIN_GSO_SIZE is 8 bytes (include/net/tcp.h).
MAX_SEGMENTS = 8192

FRAGMENT_BITS = 0x3FFF  # RFC 791: more-fragments flag and fragment offset
_HOP_BY_HOP, _ROUTING, _DESTINATION_OPTIONS, _FRAGMENT = 0, 43, 60, 44  # RFC 8200, sections 4.3 to 4.6
_TCP_FIN, _TCP_PSH, _TCP_CWR = 0x01, 0x08, 0x80  # RFC 9293, section 3.1
_U16 = Struct(">H")
_U16_U16 = Struct(">HH")
_U32 = Struct(">I")

ByteView: TypeAlias = bytes | bytearray | memoryview


def destination(packet: ByteView) -> bytes | None:
    """The destination address of an IP packet: 4 or 16 bytes, or None when it has no whole fixed header."""
    if len(packet) >= IPV4_HEADER_BYTES:
        version = packet[0] >> 4
        if version == 4:
            return bytes(packet[16:20])
        if version == 6 and len(packet) >= IPV6_HEADER_BYTES:
            return bytes(packet[24:40])
    return None


def source(packet: ByteView) -> bytes | None:
    """The source address of an IP packet: 4 or 16 bytes, or None when it has no whole fixed header."""
    if len(packet) >= IPV4_HEADER_BYTES:
        version = packet[0] >> 4
        if version == 4:
            return bytes(packet[12:16])
        if version == 6 and len(packet) >= IPV6_HEADER_BYTES:
            return bytes(packet[8:24])
    return None


def total_length(data: ByteView, offset: int = 0) -> int:
    """How many bytes the IP packet at `offset` (not negative) says it has, its header included.

    0 when it is malformed: not version 4 or 6, a header cut short or too small, or more bytes than `data` has.
    """
    available = len(data) - offset
    if available < IPV4_HEADER_BYTES:
        return 0
    first = data[offset]
    if first >> 4 == 4:
        length = data[offset + 2] << 8 | data[offset + 3]
        return length if IPV4_HEADER_BYTES <= (first & 15) * 4 <= length <= available else 0
    if first >> 4 == 6 and available >= IPV6_HEADER_BYTES:
        length = IPV6_HEADER_BYTES + (data[offset + 4] << 8 | data[offset + 5])
        return length if length <= available else 0
    return 0


def split_packets(data: ByteView) -> list[bytes] | None:
    """The IP packets that lie back to back in `data`, each as long as it says it is.

    An empty list for no data; None when any of them is malformed, as then no boundary can be believed.
    """
    data = bytes(data)
    packets: list[bytes] = []
    offset, end = 0, len(data)
    while offset < end:
        length = total_length(data, offset)
        if not length:
            return None
        packets.append(data[offset : offset + length])
        offset += length
    return packets


def transport(packet: ByteView) -> tuple[int, int] | None:
    """Protocol number and offset of the transport header of one whole IP packet, nothing before or after it.

    None when it is malformed, is a fragment, has more than MAX_EXTENSION_HEADERS extension headers, or a routing header
    with hops to go (its checksum then covers another address than the one in the IPv6 header: RFC 8200, section 8.1).
    """
    end = total_length(packet)
    if not end or end != len(packet):
        return None
    if packet[0] >> 4 == 4:
        if (packet[6] << 8 | packet[7]) & FRAGMENT_BITS:
            return None
        return packet[9], (packet[0] & 15) * 4
    following, offset = packet[6], IPV6_HEADER_BYTES
    for _ in range(MAX_EXTENSION_HEADERS):
        if following not in (_HOP_BY_HOP, _ROUTING, _DESTINATION_OPTIONS):
            return None if following == _FRAGMENT else (following, offset)
        if offset + 8 > end or (following == _ROUTING and packet[offset + 3]):
            return None
        following, offset = packet[offset], offset + (packet[offset + 1] + 1) * 8
        if offset > end:
            return None
    return None


# 2^16 is 1 modulo 65535, so a long number may be folded at any multiple of 16 bits without changing its sum of 16-bit
# words. Folding runs at the speed of memory and the division that ends it does not: for 1400 bytes 2.7 us against 4.1.
_FOLDS = tuple((bits, (1 << bits) - 1) for bits in (1440 << level for level in range(8, -1, -1)))
_WORTH_FOLDING_BYTES = 1440 // 8


def internet_checksum(data: ByteView, start: int = 0) -> int:
    """The checksum of RFC 1071 over `data`, padded with a zero byte when odd: 0 to 65535.

    `start` is added to the sum: any number whose value is a sum of 16-bit words, such as a pseudo-header read as one
    big-endian number.
    """
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    total += start
    if len(data) > _WORTH_FOLDING_BYTES:
        for bits, mask in _FOLDS:
            if total > mask:
                total = (total >> bits) + (total & mask)
    # The sum is folded with end-around carry: only the sum of nothing but zeros is 0, any other multiple is 65535.
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


class Layout(NamedTuple):
    """Where things are in a TCP or UDP packet: its protocol, where its transport header begins, and where its payload."""

    protocol: int
    at: int
    payload_at: int


@dataclass(
    slots=True, unsafe_hash=True, repr=False
)  # never changed; frozen, each would take three times as long to make
class SuperPacket:
    """One IPv4 or IPv6 packet that carries many TCP segments or UDP datagrams, as a TUN device with offloads reads it.

    `data` is the whole packet, up to 65535 bytes, whose checksums need not be filled in; of a memoryview nobody else may
    change what is behind it. `segment_size` is how many bytes of payload each packet is to have; the last may have fewer.
    """

    data: bytes | memoryview
    segment_size: int
    known_layout: Layout | None = field(default=None, compare=False, kw_only=True)
    """For who has looked already."""

    @property
    def layout(self) -> Layout | None:
        """Where its headers are, whole as they must be; None when it is malformed, a fragment, or neither TCP nor UDP."""
        if self.known_layout is None:
            self.known_layout = layout_of(self.data)
        return self.known_layout

    def segments(self) -> list[bytes]:
        """The packets that the super-packet stands for, whole and with every checksum right.

        As Linux cuts them (net/ipv4/tcp_offload.c, udp_offload.c): the IPv4 identification counts up, the TCP sequence
        number grows by the payload before it, FIN and PSH are on the last alone, CWR on the first alone.
        A packet that fits in one segment comes back alone. An empty list when it is malformed, is a fragment, is neither
        TCP nor UDP, or would need more than MAX_SEGMENTS.
        """
        data, size = self.data, self.segment_size
        found = self.layout
        if found is None or size < 1 or len(data) - found.payload_at > size * MAX_SEGMENTS:
            return []
        protocol, at, payload_at = found
        header_bytes = payload_at - at
        is_ipv4, is_tcp = data[0] >> 4 == 4, protocol == PROTOCOL_TCP

        # One header is patched for every segment. What differs between segments is zero in the sums taken here and is
        # added to them as numbers, so that only the payload is read again.
        header = bytearray(data[:payload_at])
        addresses = header[12:20] if is_ipv4 else header[8:40]
        identification = sequence = flags = ip_sum = 0
        if is_ipv4:
            (identification,) = _U16.unpack_from(header, 4)
            header[2:6] = bytes(4)
            header[10:12] = bytes(2)
            ip_sum = int.from_bytes(header[:at], "big")
        if is_tcp:
            (sequence,) = _U32.unpack_from(header, at + 4)
            flags = header[at + 13]
            header[at + 4 : at + 8] = bytes(4)
            header[at + 13] = 0
            header[at + 16 : at + 18] = bytes(2)
        else:
            header[at + 4 : at + 8] = bytes(4)
        transport_sum = int.from_bytes(addresses, "big") + protocol + int.from_bytes(header[at:], "big")

        packets: list[bytes] = []
        view = memoryview(data)
        starts = range(payload_at, len(data), size) or (payload_at,)
        for index, start in enumerate(starts):
            payload = view[start : start + size]
            length = header_bytes + len(payload)
            if is_ipv4:
                number = (identification + index) & 0xFFFF
                _U16_U16.pack_into(header, 2, at + length, number)
                _U16.pack_into(header, 10, internet_checksum(b"", ip_sum + at + length + number))
            else:
                _U16.pack_into(header, 4, at + length - IPV6_HEADER_BYTES)
            if is_tcp:
                position = (sequence + index * size) & 0xFFFFFFFF
                kept = flags
                if start != starts[-1]:
                    kept &= ~(_TCP_FIN | _TCP_PSH)
                if index:
                    kept &= ~_TCP_CWR
                _U32.pack_into(header, at + 4, position)
                header[at + 13] = kept
                _U16.pack_into(header, at + 16, internet_checksum(payload, transport_sum + length + position + kept))
            else:
                # The length is in the pseudo-header and in the header; a sum of 0 is sent as 65535 (RFC 768).
                sent = internet_checksum(payload, transport_sum + 2 * length) or 0xFFFF
                _U16_U16.pack_into(header, at + 4, length, sent)
            packets.append(b"".join((header, payload)))
        return packets

    @property
    def count(self) -> int:
        """How many `segments` there are."""
        found, size = self.known_layout or self.layout, self.segment_size
        if found is None or size < 1:
            return 0
        payload = len(self.data) - found.payload_at
        return (-(-payload // size) or 1) if payload <= size * MAX_SEGMENTS else 0

    def __repr__(self) -> str:
        return f"SuperPacket({len(self.data)} bytes, segment_size={self.segment_size})"


@lru_cache(maxsize=16)
def plain_tcp_layout(payload_at: int) -> Layout:
    """Of TCP in IPv4 without options."""
    return Layout(PROTOCOL_TCP, IPV4_HEADER_BYTES, payload_at)


def layout_of(packet: ByteView) -> Layout | None:
    """The layout of one whole TCP or UDP packet; None for any other, and for one that lacks part of a header."""
    found = transport(packet)
    if found is None:
        return None
    protocol, at = found
    if protocol == PROTOCOL_UDP:
        payload_at = at + UDP_HEADER_BYTES
    elif protocol == PROTOCOL_TCP and len(packet) >= at + TCP_HEADER_BYTES:
        payload_at = at + (packet[at + 12] >> 4) * 4
        if payload_at < at + TCP_HEADER_BYTES:
            return None
    else:
        return None
    return Layout(protocol, at, payload_at) if payload_at <= len(packet) else None


class UnfinishedPacket(bytes):
    """A whole TCP or UDP packet without extension headers or fragments, whose transport checksum is a partial one: the sum of
    its pseudo-header, as a device with checksum offload reads it. Lengths and the IP checksum are right.

    Whoever hands it on to somebody who will look at the checksum hands on `finished`.
    """

    __slots__ = ()

    def finished(self) -> bytes:
        """The packet with its checksum made."""
        found = transport(self)
        if found is None:
            return bytes(self)
        protocol, at = found
        field = at + (16 if protocol == PROTOCOL_TCP else 6)  # RFC 9293, section 3.1; RFC 768
        # A sum of 0 would say "no checksum" in UDP; 65535 is as right everywhere else (Linux, skb_checksum_help).
        checksum = internet_checksum(self[at:]) or 0xFFFF
        return b"".join((self[:field], checksum.to_bytes(2, "big"), self[field + 2 :]))


Packet: TypeAlias = bytes | SuperPacket
"""What crosses a TUN device: one packet, perhaps an `UnfinishedPacket`, or a super-packet."""


def byte_length(packet: Packet) -> int:
    """How long a packet or super-packet is."""
    return len(packet.data) if isinstance(packet, SuperPacket) else len(packet)


def count_packets(packets: Sequence[Packet]) -> int:
    """How many packets there are when every super-packet is cut up; a malformed one counts as one."""
    if len(packets) == 1 and isinstance(packets[0], bytes):
        return 1
    return sum([packet.count or 1 if isinstance(packet, SuperPacket) else 1 for packet in packets])


def whole_packets(packets: Iterable[Packet]) -> list[bytes]:
    """The packets in order, every checksum made, super-packets replaced by their segments; a malformed one by nothing."""
    whole: list[bytes] = []
    for packet in packets:
        if isinstance(packet, SuperPacket):
            whole += packet.segments()
        elif isinstance(packet, UnfinishedPacket):
            whole.append(packet.finished())
        else:
            whole.append(packet)
    return whole
