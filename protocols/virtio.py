"""The header before each packet of a TUN device with offloads, and packets that carry one.

A device with IFF_VNET_HDR gives and takes `struct virtio_net_hdr` before the IP packet. It says that the transport
checksum is still to be finished, and that the packet stands for many. Responsible for reading and writing it, for what
a packet of the device stands for (`from_device`) and what the device needs to know of one of ours (`offloaded`).
Not responsible for the device, nor for joining packets (`coalescing`).

A device's header comes from our own kernel, a super-packet from a peer perhaps: whatever they hold, nothing raises.

Sources: virtio 1.2, section 5.1.6; Linux, include/uapi/linux/virtio_net.h, and include/linux/virtio_net.h for what the
kernel refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import NamedTuple, assert_never

from holloway.protocols.checksums import partial_checksum, pseudo_header_sum
from holloway.protocols.errors import LocalError
from holloway.protocols.packets import (
    IPV6_HEADER_BYTES,
    MAX_SEGMENTS,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    ByteView,
    Layout,
    Packet,
    SuperPacket,
    internet_checksum,
    layout_of,
    transport,
)

VIRTIO_HEADER_BYTES = 10
MAX_UDP_SEGMENTS = 128  # include/linux/udp.h, UDP_MAX_SEGMENTS: a device refuses more
MAX_SEGMENT_BYTES = 0xFFFE  # 65535 is GSO_BY_FRAGS, which a device refuses
TCP_CHECKSUM_AT = 16  # RFC 9293, section 3.1
UDP_CHECKSUM_AT = 6  # RFC 768

_NEEDS_CHECKSUM, _IS_VALID = 1, 2  # VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_DATA_VALID
_ECN = 0x80  # VIRTIO_NET_HDR_GSO_ECN
_HEADER = Struct("=BBHHHH")  # a device is of the host's byte order unless TUNSETVNETLE or TUNSETVNETBE say otherwise
_U16 = Struct(">H")


class GsoType(IntEnum):
    """What a packet is to be cut into. UFO, which makes IP fragments, is none of them: it is never asked for."""

    NONE = 0
    TCPV4 = 1
    TCPV6 = 4
    UDP_L4 = 5


class VirtioHeader(NamedTuple):  # made for every read: as a frozen dataclass it would cost three times as much
    """`struct virtio_net_hdr`. All numbers are bytes, of 16 bits; 0 where they do not apply.

    `checksum_start` is where the bytes begin that the checksum covers, `checksum_offset` where from there its field is.
    `header_bytes` is a hint from the kernel, not to be relied on. `has_ecn`: the CWR flag is for the first segment alone.
    """

    gso_type: GsoType = GsoType.NONE
    header_bytes: int = 0
    segment_size: int = 0
    needs_checksum: bool = False
    checksum_start: int = 0
    checksum_offset: int = 0
    is_checksum_valid: bool = False
    has_ecn: bool = False

    def encode(self) -> bytes:
        """The 10 bytes. Raises `LocalError` for a number that does not fit in 16 bits."""
        numbers = (self.header_bytes, self.segment_size, self.checksum_start, self.checksum_offset)
        if not all(0 <= number <= 0xFFFF for number in numbers):
            raise LocalError("a virtio header has fields of 16 bits", f"{numbers} do not fit")
        flags = _NEEDS_CHECKSUM * self.needs_checksum | _IS_VALID * self.is_checksum_valid
        return _HEADER.pack(flags, self.gso_type | _ECN * self.has_ecn, *numbers)


PLAIN = VirtioHeader().encode()
"""The header of a packet that is nothing but itself."""

_GSO_TYPES = {gso.value: gso for gso in GsoType}


def parse(data: ByteView) -> VirtioHeader | None:
    """The header that `data` begins with: the inverse of `VirtioHeader.encode`.

    None when there are fewer than 10 bytes, or a flag or a type that this module does not know, as then the packet means
    something else than it seems to.
    """
    if len(data) < VIRTIO_HEADER_BYTES:
        return None
    flags, kind, header_bytes, segment_size, start, offset = _HEADER.unpack_from(data)
    gso_type = _GSO_TYPES.get(kind & ~_ECN)
    if gso_type is None or flags & ~(_NEEDS_CHECKSUM | _IS_VALID):
        return None
    return VirtioHeader(
        gso_type,
        header_bytes,
        segment_size,
        bool(flags & _NEEDS_CHECKSUM),
        start,
        offset,
        bool(flags & _IS_VALID),
        bool(kind & _ECN),
    )


@dataclass(slots=True, unsafe_hash=True, repr=False)
class OffloadedPacket(SuperPacket):
    """A super-packet, or a lone packet with a partial checksum, ready to be written to a device after its `virtio`.

    Everywhere else it is the super-packet that it extends: its `segments` are whole packets with every checksum right.
    """

    virtio: bytes


@lru_cache(maxsize=256)
def offload_header(
    protocol: int, is_ipv4: bool, at: int, header_bytes: int, segment_size: int, is_finished: bool = False
) -> bytes:
    """The header of a TCP or UDP packet whose transport header begins at `at`, with its checksum still to be finished.

    `header_bytes` are those of all headers; `segment_size` is 0 for a packet that is not to be cut. Other numbers that
    do not fit in 16 bits are the caller's mistake. `is_finished`: the checksum is whole, and the kernel is to verify it;
    a device refuses that of a UDP packet that is to be cut.
    """
    is_tcp = protocol == PROTOCOL_TCP
    gso_type = 0
    if segment_size:
        gso_type = (GsoType.TCPV4 if is_ipv4 else GsoType.TCPV6) if is_tcp else GsoType.UDP_L4
    if is_finished:
        return _HEADER.pack(0, gso_type, header_bytes, segment_size, 0, 0)
    checksum_at = TCP_CHECKSUM_AT if is_tcp else UDP_CHECKSUM_AT
    return _HEADER.pack(_NEEDS_CHECKSUM, gso_type, header_bytes, segment_size, at, checksum_at)


def offloaded(packet: SuperPacket) -> OffloadedPacket | None:
    """The same super-packet made ready for a device: lengths and IP checksum right, transport checksum left to the kernel.

    Use it only for payload that is authenticated all the way from where its checksums were last whole: the kernel will
    take, and make, every checksum for right. A packet that fits in one segment becomes one that is not to be cut.
    None when it is malformed (see `SuperPacket.segments`) or a device would refuse it; its segments can still be written.
    """
    data, size = packet.data, packet.segment_size
    found = packet.layout
    if found is None or size < 1:
        return None
    protocol, at, header_bytes = found
    payload = len(data) - header_bytes
    if payload <= size:
        size = 0
    elif size > MAX_SEGMENT_BYTES or payload > size * (MAX_SEGMENTS if protocol == PROTOCOL_TCP else MAX_UDP_SEGMENTS):
        return None
    is_ipv4 = data[0] >> 4 == 4
    header = bytearray(data[:header_bytes])
    finish_header(header, protocol, at, len(data))
    virtio = offload_header(protocol, is_ipv4, at, header_bytes, size)
    return OffloadedPacket(b"".join((header, memoryview(data)[header_bytes:])), packet.segment_size, virtio)


def finish_header(header: bytearray, protocol: int, at: int, length: int) -> None:
    """Make all headers of a TCP or UDP packet right for `length` bytes in all, the transport checksum a partial one.

    `header` holds every header of the packet, `at` is where the one of `protocol` begins; `length` is at most 65535.
    """
    if header[0] >> 4 == 4:
        _U16.pack_into(header, 2, length)
        header[10:12] = b"\0\0"
        _U16.pack_into(header, 10, internet_checksum(header[:at]))
    else:
        _U16.pack_into(header, 4, length - IPV6_HEADER_BYTES)
    checksum = partial_checksum(pseudo_header_sum(header, protocol, length - at))
    if protocol == PROTOCOL_TCP:
        _U16.pack_into(header, at + TCP_CHECKSUM_AT, checksum)
    else:
        _U16.pack_into(header, at + 4, length - at)
        _U16.pack_into(header, at + UDP_CHECKSUM_AT, checksum)


def is_finished(packet: ByteView, protocol: int, at: int) -> bool:
    """Whether `finish_header` would change nothing of a TCP or UDP packet that is as long as its IP header says."""
    length = len(packet) - at
    if packet[0] >> 4 == 4 and int.from_bytes(packet[:at], "big") % 0xFFFF:
        return False
    if protocol == PROTOCOL_TCP:
        field = at + TCP_CHECKSUM_AT
    else:
        field = at + UDP_CHECKSUM_AT
        if packet[at + 4] << 8 | packet[at + 5] != length:
            return False
    return packet[field] << 8 | packet[field + 1] == partial_checksum(pseudo_header_sum(packet, protocol, length))


def from_device(data: bytes) -> Packet | None:
    """What one read of a device with offloads gave: a virtio header and a packet.

    A TCP or UDP packet with an unfinished checksum is a `SuperPacket` even when it is not to be cut, so that nobody sums
    its payload who need not; for any other protocol the checksum is finished here. None for what is malformed, or
    contradicts its own header.
    """
    if data[:2] == b"\0\0" and len(data) >= VIRTIO_HEADER_BYTES:
        return data[VIRTIO_HEADER_BYTES:]
    header = parse(data)
    if header is None:
        return None
    packet = memoryview(data)[VIRTIO_HEADER_BYTES:]  # 60 KiB are not worth copying
    if header.gso_type is GsoType.NONE and not header.needs_checksum:
        return bytes(packet)
    found = layout_of(packet)
    if header.needs_checksum and found is None and header.gso_type is GsoType.NONE:
        at = transport(packet)
        return _finished(packet, header) if at is None or at[0] not in (PROTOCOL_TCP, PROTOCOL_UDP) else None
    if found is None or not _agrees(packet, header, found):
        return None
    size = header.segment_size if header.gso_type is not GsoType.NONE else MAX_SEGMENT_BYTES
    return SuperPacket(packet, size, known_layout=found)


def _agrees(packet: ByteView, header: VirtioHeader, layout: Layout) -> bool:
    """Whether the virtio header of a packet speaks of the same headers as the packet itself."""
    protocol, at, _ = layout
    is_ipv4 = packet[0] >> 4 == 4
    checksum_at = TCP_CHECKSUM_AT if protocol == PROTOCOL_TCP else UDP_CHECKSUM_AT
    if header.needs_checksum and (header.checksum_start, header.checksum_offset) != (at, checksum_at):
        return False
    match header.gso_type:
        case GsoType.NONE:
            return True
        case GsoType.UDP_L4:
            return protocol == PROTOCOL_UDP and header.segment_size > 0
        case GsoType.TCPV4 | GsoType.TCPV6:
            is_named = is_ipv4 == (header.gso_type is GsoType.TCPV4)
            return protocol == PROTOCOL_TCP and is_named and header.segment_size > 0
        case _ as unknown:
            assert_never(unknown)


def _finished(packet: ByteView, header: VirtioHeader) -> bytes | None:
    """The packet with its checksum finished; None when the field is not inside it."""
    start, field = header.checksum_start, header.checksum_start + header.checksum_offset
    if field + 2 > len(packet):
        return None
    whole = bytearray(packet)
    # A sum of 0 would say "no checksum" in UDP; 65535 is as right everywhere else (Linux, skb_checksum_help).
    _U16.pack_into(whole, field, internet_checksum(packet[start:]) or 0xFFFF)
    return bytes(whole)
