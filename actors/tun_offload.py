"""What a TUN device may leave to us, and we to it: checksums, cutting and joining (checksum, TSO and USO offloads).

Responsible for agreeing with the kernel on the offloads of a descriptor, for what one read of such a device gave, and for
which packets are joined on their way to it. Not responsible for the descriptor nor for reading and writing (`tun`), nor
for the arithmetic of joining (`protocols.coalescing`) and of virtio headers (`protocols.virtio`).

Sources: Linux, include/uapi/linux/if_tun.h; drivers/net/tun.c, set_offload.
"""

from __future__ import annotations

import errno
import fcntl
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import cast

from holloway.protocols.checksums import pseudo_header_sum
from holloway.protocols.coalescing import Checksums, coalesce
from holloway.protocols.packets import (
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    TCP_HEADER_BYTES,
    ByteView,
    Packet,
    SuperPacket,
    UnfinishedPacket,
    internet_checksum,
    layout_of,
    plain_tcp_layout,
    total_length,
    transport,
)
from holloway.protocols.virtio import (
    TCP_CHECKSUM_AT,
    UDP_CHECKSUM_AT,
    VIRTIO_HEADER_BYTES,
    OffloadedPacket,
    from_device,
)

# Not worth joining are a few, as a run costs 10 us to begin with, and acknowledgements, which say nothing that continues.
JOIN_FROM_PACKETS = 4
JOIN_FROM_BYTES = 2048

IFF_VNET_HDR = 0x4000
IFREQ = struct.Struct("16sH22x")  # struct ifreq: name, flags, the rest of the union
TUNGETIFF = 0x800454D2
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
TUNSETVNETLE = 0x400454DC

_CHECKSUM, _TSO4, _TSO6, _USO4, _USO6 = 0x01, 0x02, 0x04, 0x20, 0x40  # TUN_F_...
_TSO = _CHECKSUM | _TSO4 | _TSO6
_STEPS = (
    # Never TUN_F_TSO_ECN: what has the CWR flag is rare, and is cut by the kernel, as no `SuperPacket` could say so.
    (_TSO | _USO4 | _USO6, ("csum", "tso4", "tso6", "uso4", "uso6")),  # since Linux 6.2
    (_TSO, ("csum", "tso4", "tso6")),
    (_CHECKSUM, ("csum",)),
)
_REFUSED_ERRNOS = frozenset({errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP})
# The first bytes of a virtio header: flags, and what is to be cut.
NO_OFFLOAD = b"\x00\x00"
_LONE_PARTIAL = b"\x01\x00"  # a checksum to be finished
_TCP4_SUPER, _TCP6_SUPER = b"\x01\x01", b"\x01\x04"  # that, and TCP segments to be cut
NEEDS_CHECKSUM = 0x01  # VIRTIO_NET_HDR_F_NEEDS_CSUM, in the first byte of a virtio header
_IPV4_ADDRESS_BYTES = 4
_VERSION_5 = b"\x50"  # above what an IPv4 packet begins with, below IPv6
_TCP, _UDP = PROTOCOL_TCP.to_bytes(1, "big"), PROTOCOL_UDP.to_bytes(1, "big")
# Where the checksum of a UDP packet is, in the last four bytes of its virtio header.
_PLACE = struct.Struct("=HH")
_TCP_OVER_IPV4 = _PLACE.pack(IPV4_HEADER_BYTES, TCP_CHECKSUM_AT)
_UDP_OVER_IPV4 = _PLACE.pack(IPV4_HEADER_BYTES, UDP_CHECKSUM_AT)
_PLAIN_UDP = _UDP_OVER_IPV4 + b"\x45"  # and the first byte of a packet without IP options
_PLAIN_TCP = _TCP_OVER_IPV4 + b"\x45"
_LEAST_TCP_BYTES = VIRTIO_HEADER_BYTES + IPV4_HEADER_BYTES + TCP_HEADER_BYTES
_PLAIN_TCP_SUM = slice(
    VIRTIO_HEADER_BYTES + IPV4_HEADER_BYTES + TCP_CHECKSUM_AT,
    VIRTIO_HEADER_BYTES + IPV4_HEADER_BYTES + TCP_CHECKSUM_AT + 2,
)
_UDP_OVER_IPV6 = _PLACE.pack(IPV6_HEADER_BYTES, UDP_CHECKSUM_AT)
BULK_TCP = struct.Struct(">11sxHxxHxBxx8s12xB")
"""A super-packet of TCP in IPv4 without options: its virtio header with the first byte of the packet, which say so
(`is_bulk_tcp`). Of IP: length, fragment, protocol, addresses. Of TCP: where its options end."""
MOST_TCP_HEADERS = IPV4_HEADER_BYTES + 60
"""What such a packet has of headers at most."""


def has_virtio_header(descriptor: int) -> bool:
    """Whether the device that `descriptor` is attached to has IFF_VNET_HDR. Raises `OSError`.

    About packet information there is no asking: TUNGETIFF says IFF_NOFILTER with the bit of IFF_NO_PI.
    """
    _name, flags = IFREQ.unpack(fcntl.ioctl(descriptor, TUNGETIFF, bytes(IFREQ.size)))
    return bool(flags & IFF_VNET_HDR)


def agree(descriptor: int, *, receive_super: bool = True) -> tuple[str, ...]:
    """Ask for every offload that this program has a use for, of a device with IFF_VNET_HDR; those that were granted.

    With `receive_super` false ask for none of them, but the device takes super-packets all the same. What an earlier user
    of a persistent device left behind is replaced: offloads, and the size and the byte order of the virtio header. Raises
    `OSError` for a kernel that cannot even do that.
    """
    fcntl.ioctl(descriptor, TUNSETVNETHDRSZ, struct.pack("=i", VIRTIO_HEADER_BYTES))
    # Off, it is the host's order of a big-endian host, and on a little-endian one too unless somebody set TUNSETVNETBE.
    fcntl.ioctl(descriptor, TUNSETVNETLE, struct.pack("=i", sys.byteorder == "little"))
    for flags, names in _STEPS if receive_super else ():
        if _offload(descriptor, flags):
            return names
    _offload(descriptor, 0)
    return ()


def decline(descriptor: int) -> None:
    """Leave nothing to us: a device without IFF_VNET_HDR could not even say that a checksum is unfinished.

    A persistent device remembers the offloads of its last user. Raises `OSError`, but not for a kernel without offloads.
    """
    _offload(descriptor, 0)


def _offload(descriptor: int, flags: int) -> bool:
    try:
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, flags)
    except OSError as error:
        if error.errno in _REFUSED_ERRNOS:
            return False
        raise
    return True


def arrived(data: bytes) -> Packet | None:
    """What one read of a device with virtio headers gave; None when it is malformed.

    A lone packet comes without its virtio header: UDP as an `UnfinishedPacket`, which most likely has others like it beside
    it; TCP with its checksum, which is less work than an acknowledgement's way through what joins packets.
    """
    kind = data[:2]
    if data[6:11] == _PLAIN_TCP:
        if kind == _LONE_PARTIAL and len(data) >= _PLAIN_TCP_SUM.stop:
            checksum = internet_checksum(data[VIRTIO_HEADER_BYTES + IPV4_HEADER_BYTES :]) or 0xFFFF  # as below
            return b"".join(
                (
                    data[VIRTIO_HEADER_BYTES : _PLAIN_TCP_SUM.start],
                    checksum.to_bytes(2, "big"),
                    data[_PLAIN_TCP_SUM.stop :],
                )
            )
        if kind == _TCP4_SUPER and len(data) >= _LEAST_TCP_BYTES:  # nearly every read of a bulk flow
            length = len(data) - VIRTIO_HEADER_BYTES
            payload_at = IPV4_HEADER_BYTES + (data[42] >> 4) * 4
            size = int.from_bytes(data[4:6], sys.byteorder)
            if (
                data[12] << 8 | data[13] == length
                and data[19] == PROTOCOL_TCP
                and not (data[16] & 0x3F or data[17])  # a fragment
                and IPV4_HEADER_BYTES + TCP_HEADER_BYTES <= payload_at <= length
                and size
            ):
                packet = memoryview(data)[VIRTIO_HEADER_BYTES:]
                return SuperPacket(packet, size, known_layout=plain_tcp_layout(payload_at))
    if kind == NO_OFFLOAD and len(data) >= VIRTIO_HEADER_BYTES:
        return data[VIRTIO_HEADER_BYTES:]
    if kind in (_TCP4_SUPER, _TCP6_SUPER):
        return _tcp_super_packet(data) or from_device(data)
    if kind != _LONE_PARTIAL or len(data) < VIRTIO_HEADER_BYTES:
        return from_device(data)
    if data[6:11] == _PLAIN_UDP and data[19:20] == _UDP and data[12] << 8 | data[13] == len(data) - VIRTIO_HEADER_BYTES:
        return UnfinishedPacket(data[VIRTIO_HEADER_BYTES:])
    lone = UnfinishedPacket(data[VIRTIO_HEADER_BYTES:])
    place = data[6:VIRTIO_HEADER_BYTES]
    if place == _UDP_OVER_IPV6 and lone[6:7] == _UDP and total_length(lone) == len(lone):
        return lone
    # A header is of the host's byte order; see `agree`.
    start = int.from_bytes(place[:2], sys.byteorder)
    field = start + int.from_bytes(place[2:], sys.byteorder)
    if field + 2 > len(lone):
        return None
    # A sum of 0 would say "no checksum" in UDP; 65535 is as right everywhere else (Linux, skb_checksum_help).
    checksum = internet_checksum(lone[start:]) or 0xFFFF
    return b"".join((lone[:field], checksum.to_bytes(2, "big"), lone[field + 2 :]))


def is_bulk_tcp(data: bytes) -> bool:
    """Whether what `arrived` has found good is what `BULK_TCP` tells of. Then so is what differs from it in nothing that `BULK_TCP`
    shows but the length, if that is right.
    """
    return data[:2] == _TCP4_SUPER and data[6:11] == _PLAIN_TCP


def _tcp_super_packet(data: bytes) -> SuperPacket | None:
    """Any other super-packet of TCP; None for `from_device` to judge."""
    packet = memoryview(data)[VIRTIO_HEADER_BYTES:]
    size = int.from_bytes(data[4:6], sys.byteorder)
    layout = layout_of(packet)
    if layout is None or not size or layout.protocol != PROTOCOL_TCP:
        return None
    is_named = (data[1] == _TCP4_SUPER[1]) == (packet[0] >> 4 == 4)
    if not is_named or data[6:VIRTIO_HEADER_BYTES] != _PLACE.pack(layout.at, TCP_CHECKSUM_AT):
        return None
    return SuperPacket(packet, size, known_layout=layout)


class Joiner:
    """Joins the TCP segments of a batch that are for this host, so that the kernel is asked once for many.

    Nobody who receives them can tell, and the kernel verifies what is joined. Left alone is what is routed on, as there the
    kernel would sum anew and so put right what came wrong, and UDP, of which it verifies nothing that is joined: to verify
    them here first costs 3 us a packet, and a write 1.5 us. Where packets to this host are sent elsewhere by NAT, connection
    tracking verifies them, unless the sysctl nf_conntrack_checksum is off.
    """

    def __init__(self) -> None:
        self.is_active = False
        """Whether anything may be joined: not until `set_local`."""
        self._ipv4: frozenset[bytes] = frozenset()
        self._ipv6: frozenset[bytes] = frozenset()

    def set_local(self, addresses: Iterable[bytes]) -> None:
        """The addresses of this host, 4 or 16 bytes each, in place of those before."""
        packed = frozenset(addresses)
        self._ipv4 = frozenset(address for address in packed if len(address) == _IPV4_ADDRESS_BYTES)
        self._ipv6 = packed - self._ipv4
        self.is_active = bool(packed)

    def join(self, packets: Sequence[Packet]) -> Sequence[Packet]:
        """The batch with runs joined. The packets of a flow stay in order; those of different flows may change places."""
        if len(packets) < JOIN_FROM_PACKETS or set(map(type, packets)) != {bytes}:
            return packets  # beside a super-packet from a peer that has not cut it there is nothing of a bulk flow
        whole = cast("Sequence[bytes]", packets)
        if sum(map(len, whole)) < JOIN_FROM_BYTES:
            return packets
        # Nearly always all packets are alike; to see that costs a fifth of parting them.
        if max(whole) < _VERSION_5:
            protocols = {packet[9:10] for packet in whole}
            are_ours = {packet[16:20] for packet in whole} <= self._ipv4
        elif min(whole) >= _VERSION_5:
            protocols = {packet[6:7] for packet in whole}
            are_ours = {packet[24:40] for packet in whole} <= self._ipv6
        else:
            return self._join_some(whole)
        if _TCP not in protocols:
            return packets
        if are_ours and len(protocols) == 1:
            return coalesce(whole, Checksums.LET_KERNEL_VERIFY)
        return self._join_some(whole)

    def _join_some(self, packets: Sequence[bytes]) -> list[Packet]:
        ours: list[bytes] = []
        rest: list[Packet] = []
        for packet in packets:
            if packet < _VERSION_5:
                is_joinable = packet[9:10] == _TCP and packet[16:20] in self._ipv4
            else:
                is_joinable = packet[6:7] == _TCP and packet[24:40] in self._ipv6
            (ours if is_joinable else rest).append(packet)
        return coalesce(ours, Checksums.LET_KERNEL_VERIFY) + rest


def pieces(packet: SuperPacket) -> list[bytes]:
    """The segments of a super-packet that the device would not take; none when it is malformed.

    Nor when the kernel was to verify its checksum and would have found it wrong: cutting it would put that right.
    """
    if isinstance(packet, OffloadedPacket) and not packet.virtio[0] & NEEDS_CHECKSUM and not _is_right(packet.data):
        return []
    return packet.segments()


def _is_right(packet: ByteView) -> bool:
    """Whether the transport checksum of a whole packet is right."""
    found = transport(packet)
    if found is None:
        return False
    protocol, at = found
    return not internet_checksum(packet[at:], pseudo_header_sum(packet, protocol, len(packet) - at))
