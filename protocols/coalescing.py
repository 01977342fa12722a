"""Joining packets of one flow that follow each other into super-packets, so that the kernel is asked once for many.

    coalesce([t1, u1, t2, t3, t4!]) == [OffloadedPacket(t1 t2 t3), u1, t4!]

What the kernel sees must be what it would have seen packet by packet: a super-packet is joined only if cutting it again
gives the packets that it was made of, byte for byte. So a packet continues a run only if its headers are the very bytes
that the first packet's headers foretell, and its checksums are right. A joined packet that was wrong would be put right by
whoever finishes its checksum. Refused are, as by the kernel's GRO (net/ipv4/tcp_offload.c, udp_offload.c, gro.c): other
TTL, DSCP or ECN, flow label, acknowledgement, window, urgent pointer or TCP options, timestamps included; a gap; flags
besides ACK and PSH; IP options and extension headers; fragments; UDP without a checksum. PSH and a shorter packet end a
run. IPv4 identifications must count up; if fragmenting is forbidden they may also stay the same, and only then does cutting
change anything: it numbers them (they mean nothing then, RFC 6864, section 4.1).

How it is fast. The headers of a packet are one big number, in which the next packet's differ by a known amount: one
more in the identification, one less in the IP checksum, the segment size more in the sequence number. One addition
foretells a header and one comparison checks all of it. A run ends before one of those fields would wrap into its
neighbour. Verifying checksums is three quarters of the price, unless somebody else does it: see `Checksums`.

Packets of one flow stay in their order, whatever becomes of them; packets of different flows may change places.
Packets come from an authenticated but perhaps hostile peer: nothing raises, nothing is lost, nothing is made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from holloway.protocols.checksums import partial_checksum, pseudo_header_sum, sums_to_zero
from holloway.protocols.packets import (
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    MAX_SEGMENTS,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    TCP_HEADER_BYTES,
    UDP_HEADER_BYTES,
    Packet,
    transport,
)
from holloway.protocols.virtio import (
    MAX_SEGMENT_BYTES,
    TCP_CHECKSUM_AT,
    UDP_CHECKSUM_AT,
    OffloadedPacket,
    finish_header,
    offload_header,
)

MAX_JOINED_BYTES = 65_535  # the greatest total length of RFC 791, section 3.1
MAX_JOINED_DATAGRAMS = 64  # net/ipv4/udp_offload.c, UDP_GRO_CNT_MAX
MIN_SEGMENT_BYTES = 8  # include/net/tcp.h, TCP_MIN_GSO_SIZE

_IPV4_PLAIN = 0x45  # version 4, a header of five words: no options
_IPV4_AT, _IPV6_AT = IPV4_HEADER_BYTES, IPV6_HEADER_BYTES  # where the transport header begins
_NO_FRAGMENT = frozenset((b"\0\0", b"\x40\0"))  # bytes 6 and 7 of an IPv4 header: nothing set, or only DF
_DF = 0x40
_ACK, _PSH = 0x10, 0x08
_ACK_PSH = _ACK | _PSH
_JOINABLE = (_ACK, _ACK_PSH)
_UNJOINABLE = 0
_UDP_KEY = b"u"  # tells the key of a UDP flow from that of a TCP flow between the same ports


class Checksums(Enum):
    """What the caller says of the transport checksums of packets, and so who looks at them."""

    VERIFY = "verify"
    """Nothing. They are verified here before packets are joined; that is three quarters of the price of joining."""
    LET_KERNEL_VERIFY = "let kernel verify"
    """The packets go to a device and end in this host. What is joined of TCP gets the checksum that is right if each
    packet's was, for the kernel to verify: with one wrong packet the whole run is dropped (unless errors in two cancel, as
    they may within one packet). A packet that is routed on is not verified but summed anew, hence the condition. For UDP a
    device has no such thing: it is as with VERIFY."""
    GOOD = "good"
    """They are right, or were left partial by a sender of ours, and the payload has been authenticated since. Nobody
    looks at them, and a lone TCP or UDP packet becomes an `OffloadedPacket` too, for the kernel to finish its checksum."""


class _Layout(NamedTuple):
    """Where fields are in the headers of a packet, read as one number."""

    mask: int  # the transport checksum cleared, the rest set
    push: int  # PSH
    numbered: int  # what an IPv4 header gains when its identification counts up
    byte_of_sequence: int  # what a TCP header gains for each byte of payload before it
    byte_of_length: int  # what the headers gain for each byte of length
    at_identification: int  # how far to shift these fields to the right
    at_ip_checksum: int
    at_sequence: int


@lru_cache(maxsize=64)  # there are 24: two families, TCP headers of 20 to 60 bytes and UDP's
def _layout(is_ipv4: bool, protocol: int, header_bytes: int) -> _Layout:
    def shift(offset: int, width: int) -> int:
        return 8 * (header_bytes - offset - width)

    at = _IPV4_AT if is_ipv4 else _IPV6_AT
    mask = (1 << 8 * header_bytes) - 1
    checksum_at = at + (TCP_CHECKSUM_AT if protocol == PROTOCOL_TCP else UDP_CHECKSUM_AT)
    mask ^= 0xFFFF << shift(checksum_at, 2)
    push = numbered = byte_of_sequence = at_sequence = 0
    # In ones' complement a checksum falls by what the fields it covers gain.
    byte_of_length = 1 << shift(2, 2) if is_ipv4 else 1 << shift(4, 2)
    if is_ipv4:
        numbered = (1 << shift(4, 2)) - (1 << shift(10, 2))
        byte_of_length -= 1 << shift(10, 2)
    if protocol == PROTOCOL_TCP:
        push = _PSH << shift(at + 13, 1)
        at_sequence = shift(at + 4, 4)
        byte_of_sequence = 1 << at_sequence
    else:
        byte_of_length += 1 << shift(at + 4, 2)
    return _Layout(mask, push, numbered, byte_of_sequence, byte_of_length, shift(4, 2), shift(10, 2), at_sequence)


class _Run:
    """A packet, the packets that continue it, and the headers that the next one must have."""

    __slots__ = (
        "at",
        "checksums",
        "expected",
        "first",
        "has_push",
        "header_bytes",
        "is_ipv4",
        "is_tcp",
        "is_verified",
        "layout",
        "length",
        "mask",
        "packets",
        "place",
        "room",
        "step",
        "sum_outside",
    )

    def __init__(
        self, first: bytes, place: int, is_ipv4: bool, protocol: int, header_bytes: int, checksums: Checksums
    ) -> None:
        self.first = first
        self.place = place  # where in the result it goes
        self.is_ipv4 = is_ipv4
        self.is_tcp = protocol == PROTOCOL_TCP
        self.checksums = checksums
        self.is_verified = checksums is Checksums.VERIFY or (
            checksums is Checksums.LET_KERNEL_VERIFY and not self.is_tcp
        )
        self.at = _IPV4_AT if is_ipv4 else _IPV6_AT
        self.header_bytes = header_bytes
        self.length = len(first)
        self.layout = _layout(is_ipv4, protocol, header_bytes)
        self.mask = self.layout.mask
        self.packets = [first]
        self.has_push = False
        # What belongs to the transport checksum, less the IP header, which is summed with the rest of the packet.
        whole = pseudo_header_sum(first, protocol, len(first) - self.at)
        self.sum_outside = (whole - int.from_bytes(first[: self.at], "big")) % 0xFFFF
        self.expected = self.step = self.room = 0
        self.foretell(is_numbered=is_ipv4)

    def foretell(self, *, is_numbered: bool) -> None:
        """Set what the second packet's headers must be, and how many more there can be until a field would wrap."""
        layout, size = self.layout, self.length - self.header_bytes
        head = int.from_bytes(self.first[: self.header_bytes], "big")
        room = min(MAX_SEGMENTS, (MAX_JOINED_BYTES - self.header_bytes) // size) - 1
        self.step = size * layout.byte_of_sequence
        if self.is_tcp:
            room = min(room, (0xFFFFFFFF - (head >> layout.at_sequence & 0xFFFFFFFF)) // size)
        else:
            room = min(room, MAX_JOINED_DATAGRAMS - 1)
        if is_numbered:
            self.step += layout.numbered
            identification, checksum = head >> layout.at_identification & 0xFFFF, head >> layout.at_ip_checksum & 0xFFFF
            room = min(room, 0xFFFF - identification, checksum)
        self.expected = (head & self.mask) + self.step
        self.room = room

    def is_next(self, packet: bytes, has_push: bool) -> bool:
        """Join `packet`, of the same flow, if it continues the run; whether it did.

        Afterwards `room` is 0 if nothing can continue the run any more.
        """
        missing = self.length - len(packet)
        expected, sum_outside = self.expected, self.sum_outside
        if not self.room or not 0 <= missing < self.length - self.header_bytes:
            return False
        if missing:
            if self.is_ipv4:
                sum_outside += 0xFFFF - missing % 0xFFFF
            # The IP checksum may carry into the protocol here, and then no packet of this flow is the next.
            expected -= missing * self.layout.byte_of_length
        if has_push:
            expected |= self.layout.push
        if int.from_bytes(packet[: self.header_bytes], "big") & self.mask != expected:
            return False
        if self.is_verified and not sums_to_zero(packet, sum_outside):
            return False
        self.packets.append(packet)
        self.expected += self.step
        self.room = 0 if missing or has_push else self.room - 1
        self.has_push = has_push
        return True

    def joined(self) -> OffloadedPacket:
        """The super-packet: the first packet's headers for the payload of all."""
        packets, at, header_bytes = self.packets, self.at, self.header_bytes
        size = self.length - header_bytes
        length = self.length + size * (len(packets) - 2) + len(packets[-1]) - header_bytes
        header = bytearray(self.first[:header_bytes])
        protocol = PROTOCOL_TCP if self.is_tcp else PROTOCOL_UDP
        if self.has_push:
            header[at + 13] |= _PSH
        finish_header(header, protocol, at, length)
        is_finished = self.is_tcp and self.checksums is Checksums.LET_KERNEL_VERIFY
        if is_finished:
            header[at + TCP_CHECKSUM_AT : at + TCP_CHECKSUM_AT + 2] = self.carried_checksum(header).to_bytes(2, "big")
        virtio = offload_header(protocol, self.is_ipv4, at, header_bytes, size, is_finished)
        data = b"".join((header, *[packet[header_bytes:] for packet in packets]))
        return OffloadedPacket(data, size, virtio)

    def carried_checksum(self, header: bytearray) -> int:
        """The checksum that the super-packet has if each packet's was right; no payload is looked at.

        `header` is the super-packet's, finished but for this: the checksum in it is a partial one.
        """
        packets, header_bytes = self.packets, self.header_bytes
        # A packet whose checksum is right sums to zero, so that its payload is what its headers lack.
        lacking = [int.from_bytes(packet[:header_bytes], "big") + self.sum_outside for packet in packets]
        if self.is_ipv4:
            lacking[-1] -= self.length - len(packets[-1])
        # Bytes at an odd place count for what they do at an even one times 256, modulo 65535.
        weight = 256 if (self.length - header_bytes) & 1 else 1
        payload = sum(lacking[::2]) + weight * sum(lacking[1::2])
        # With the partial checksum, which is the sum of the pseudo-header, the transport header is complete.
        return (payload - int.from_bytes(header[self.at :], "big")) % 0xFFFF


def coalesce(packets: Sequence[bytes], checksums: Checksums = Checksums.VERIFY) -> list[Packet]:
    """The same packets with runs joined, a joined one where the first of its packets was.

    `packets` came from one peer in this order. A packet that is joined to none comes back as the same object, unless its
    checksum is left to the kernel (`Checksums.GOOD`).
    """
    kept: list[bytes] = []
    # By flow: the place of a packet that the next one may continue, or the run that has begun with it.
    flows: dict[bytes, int | _Run] = {}
    runs: list[_Run] = []
    last: _Run | None = None  # the run that grew last: most likely it grows again
    from_bytes = int.from_bytes
    for packet in packets:
        length = len(packet)
        if (
            last is not None
            and length == last.length
            and from_bytes(packet[: last.header_bytes], "big") & last.mask == last.expected
            and last.room
            and (last.is_tcp or packet[last.header_bytes - 2 : last.header_bytes] != b"\0\0")
            and (not last.is_verified or sums_to_zero(packet, last.sum_outside))
        ):
            last.packets.append(packet)
            last.expected += last.step
            last.room -= 1
            continue
        key, flags = b"", _ACK  # a datagram counts as a segment that says nothing but ACK
        if length > _IPV4_AT + UDP_HEADER_BYTES and packet[0] == _IPV4_PLAIN and packet[6:8] in _NO_FRAGMENT:
            protocol = packet[9]
            if protocol == PROTOCOL_TCP and length >= _IPV4_AT + TCP_HEADER_BYTES:
                key, flags = packet[12:24], packet[33]
            elif protocol == PROTOCOL_UDP:
                key = packet[12:24] + _UDP_KEY
                if packet[26:28] == b"\0\0":
                    flags = _UNJOINABLE
        elif length > _IPV6_AT + UDP_HEADER_BYTES and packet[0] >> 4 == 6:
            protocol = packet[6]
            if protocol == PROTOCOL_TCP and length >= _IPV6_AT + TCP_HEADER_BYTES:
                key, flags = packet[8:44], packet[53]
            elif protocol == PROTOCOL_UDP:
                key = packet[8:44] + _UDP_KEY
                if packet[46:48] == b"\0\0":
                    flags = _UNJOINABLE
        if not key:
            key, flags = _flow(packet), _UNJOINABLE
            if not key:
                # It may be of any flow, whose later packets must not overtake it.
                flows.clear()
                last = None
                kept.append(packet)
                continue
        before = flows.get(key)
        if before is not None and flags in _JOINABLE:
            has_push = flags == _ACK_PSH
            if isinstance(before, int):
                run = _begin(kept[before], before, packet, has_push, checksums)
                if run is not None:
                    flows[key] = last = run
                    runs.append(run)
                    continue
            elif before.is_next(packet, has_push):
                last = before
                continue
        if isinstance(before, _Run):
            before.room = 0
        if flags == _ACK:
            flows[key] = len(kept)
        elif before is not None:
            del flows[key]
        kept.append(packet)
    result: list[Packet] = list(map(_left_to_kernel, kept)) if checksums is Checksums.GOOD else list(kept)
    for run in runs:
        result[run.place] = run.joined()
    return result


def _flow(packet: bytes) -> bytes:
    """The key of a TCP or UDP packet that has options, extension headers or too little in it; b"" for any other."""
    found = transport(packet)
    if found is None or found[0] not in (PROTOCOL_TCP, PROTOCOL_UDP) or found[1] + 4 > len(packet):
        return b""
    protocol, at = found
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return addresses + packet[at : at + 4] + (_UDP_KEY if protocol == PROTOCOL_UDP else b"")


def _begin(first: bytes, place: int, second: bytes, has_push: bool, checksums: Checksums) -> _Run | None:
    """A run of two packets of one flow, without options or extension headers; None when they cannot be joined."""
    is_ipv4 = first[0] == _IPV4_PLAIN
    if is_ipv4:
        at, protocol = _IPV4_AT, first[9]
        is_whole = (first[2] << 8 | first[3]) == len(first) and not int.from_bytes(first[:_IPV4_AT], "big") % 0xFFFF
    else:
        at, protocol = _IPV6_AT, first[6]
        is_whole = (first[4] << 8 | first[5]) == len(first) - _IPV6_AT
    if protocol == PROTOCOL_TCP:
        header_bytes = at + (first[at + 12] >> 4) * 4
        is_whole = is_whole and header_bytes >= at + TCP_HEADER_BYTES
    else:
        header_bytes = at + UDP_HEADER_BYTES
        is_whole = is_whole and (first[at + 4] << 8 | first[at + 5]) == len(first) - at
    if not is_whole or len(first) - header_bytes < MIN_SEGMENT_BYTES or len(second) > len(first):
        return None
    run = _Run(first, place, is_ipv4, protocol, header_bytes, checksums)
    if not run.is_next(second, has_push):
        if not is_ipv4 or not first[6] & _DF:
            return None
        run.foretell(is_numbered=False)
        if not run.is_next(second, has_push):
            return None
    return None if run.is_verified and not sums_to_zero(first, run.sum_outside) else run


def _left_to_kernel(packet: bytes) -> Packet:
    """A lone packet with its transport checksum made partial, if it is a whole TCP or UDP packet that has one."""
    found = transport(packet)
    if found is None:
        return packet
    protocol, at = found
    length = len(packet) - at
    if protocol == PROTOCOL_TCP:
        field, header_bytes = at + TCP_CHECKSUM_AT, at + TCP_HEADER_BYTES
        if length < TCP_HEADER_BYTES or packet[at + 12] >> 4 < TCP_HEADER_BYTES // 4:
            return packet
    elif protocol == PROTOCOL_UDP and packet[at + 4 : at + 6] == length.to_bytes(2, "big"):
        field, header_bytes = at + UDP_CHECKSUM_AT, at + UDP_HEADER_BYTES
        if packet[field:header_bytes] == b"\0\0":
            return packet
    else:
        return packet
    if length < header_bytes - at:
        return packet
    checksum = partial_checksum(pseudo_header_sum(packet, protocol, length)).to_bytes(2, "big")
    if packet[field : field + 2] != checksum:
        packet = b"".join((packet[:field], checksum, packet[field + 2 :]))
    return OffloadedPacket(
        packet, MAX_SEGMENT_BYTES, offload_header(protocol, packet[0] >> 4 == 4, at, header_bytes, 0)
    )
