"""Rows of like UDP packets from a device, told by their headers alone and carried as one super-packet.

A host that sends many short datagrams to one place sends packets that differ in their payloads and in nothing else that
matters. `RowShape` says where a device's packets are to be read to, so that what is alike lies together: their headers, behind
the virtio header each, in one place, and their payloads in another. `super_packet` then looks at all headers at once, which
costs less than looking at one packet, and gives what a host gives that cuts its datagrams on the device (UDP_SEGMENT).

What is joined: packets with the same bytes everywhere but in the payload and in identification and checksum of IPv4, their UDP
checksum left partial by the device; in IPv4 without options, and with fragmenting forbidden. Cutting numbers them anew then, as
it does in `coalescing`: an identification means nothing where nobody may fragment (RFC 6864, section 4.1). An IP checksum must be
right, for making it anew would put right one that is wrong.

Not responsible for reading (`actors.tun_rows`). Whatever the bytes, nothing raises.
"""

from __future__ import annotations

from operator import add
from struct import iter_unpack
from typing import NamedTuple

from holloway.protocols.packets import (
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    PROTOCOL_UDP,
    UDP_HEADER_BYTES,
    ByteView,
    Layout,
    SuperPacket,
)
from holloway.protocols.virtio import (
    UDP_CHECKSUM_AT,
    VIRTIO_HEADER_BYTES,
    OffloadedPacket,
    VirtioHeader,
    finish_header,
    offload_header,
)

MAX_ROW_PACKETS = 64  # as many as the kernel's GRO would join: include/linux/udp.h, UDP_GRO_CNT_MAX
MIN_PAYLOAD_BYTES = 8  # as in `coalescing`
MAX_PAYLOAD_BYTES = 640  # two in a datagram: rows are for short packets, of which there are many

_IPV4, _IPV6 = 0x45, 6  # version 4 and a header without options; version 6
_NOT_TO_FRAGMENT = b"\x40\0"  # bytes 6 and 7 of an IPv4 header: DF, and nothing else
_WORD_BYTES = 2
# Identification and checksum (RFC 791, section 3.1) behind a virtio header.
_NUMBERED = slice(VIRTIO_HEADER_BYTES + 4, VIRTIO_HEADER_BYTES + 4 + _WORD_BYTES)
_SUMMED = slice(VIRTIO_HEADER_BYTES + 10, VIRTIO_HEADER_BYTES + 10 + _WORD_BYTES)
_NOUGHTS = memoryview(bytes(MAX_ROW_PACKETS * _WORD_BYTES)).cast("H")
_VIRTIO = {
    at: VirtioHeader(needs_checksum=True, checksum_start=at, checksum_offset=UDP_CHECKSUM_AT).encode()
    for at in (IPV4_HEADER_BYTES, IPV6_HEADER_BYTES)
}


class RowShape(NamedTuple):
    """Like packets: where in each its UDP header begins, and how long its payload is."""

    at: int
    size: int

    @property
    def head_bytes(self) -> int:
        """What is before the payload, the virtio header included."""
        return VIRTIO_HEADER_BYTES + self.at + UDP_HEADER_BYTES

    @property
    def read_bytes(self) -> int:
        """How long a read of the device is that gives one of them."""
        return self.head_bytes + self.size


def shape_of(packet: ByteView) -> RowShape | None:
    """The row that a packet may be of; None when it is of none."""
    if len(packet) < IPV4_HEADER_BYTES + UDP_HEADER_BYTES:
        return None
    if packet[0] == _IPV4 and packet[9] == PROTOCOL_UDP and packet[6:8] == _NOT_TO_FRAGMENT:
        at = IPV4_HEADER_BYTES
    elif packet[0] >> 4 == _IPV6 and packet[6] == PROTOCOL_UDP:
        at = IPV6_HEADER_BYTES
    else:
        return None
    size = len(packet) - at - UDP_HEADER_BYTES
    return RowShape(at, size) if MIN_PAYLOAD_BYTES <= size <= MAX_PAYLOAD_BYTES else None


def super_packet(shape: RowShape, heads: bytearray, payloads: ByteView) -> SuperPacket | None:
    """The packet that a row stands for; None when they are not all alike.

    `heads`: the first `head_bytes` of each read, of 2 to `MAX_ROW_PACKETS`; `payloads`: what came behind them.
    """
    at, size = shape
    length = shape.head_bytes
    count = len(heads) // length
    first = heads[:length]
    if not _is_whole(first, shape):
        return None
    is_ipv4 = at == IPV4_HEADER_BYTES
    alike, template = heads, first
    if is_ipv4:
        numbers, sums = _words(heads, shape)
        # Where all else is alike, a checksum is right if it makes up for what the identification differs; that holds for
        # words in either byte order (RFC 1071, section 2). Seldom are there more than two of these sums.
        if len({each % 0xFFFF for each in set(map(add, numbers.tolist(), sums.tolist()))}) > 1:
            return None
        alike, template = bytearray(heads), bytearray(first)
        for column in _words(alike, shape):
            column[:] = _NOUGHTS[:count]
        template[_NUMBERED] = template[_SUMMED] = bytes(_WORD_BYTES)
    if alike != template * count:
        return None
    header = first[VIRTIO_HEADER_BYTES:]
    finish_header(header, PROTOCOL_UDP, at, len(header) + len(payloads))
    virtio = offload_header(PROTOCOL_UDP, is_ipv4, at, len(header), size)
    layout = Layout(PROTOCOL_UDP, at, len(header))
    return OffloadedPacket(b"".join((header, payloads)), size, virtio, known_layout=layout)


def rows_by_flow(
    shape: RowShape, heads: bytearray, payloads: ByteView, least: int
) -> tuple[list[SuperPacket], list[int]] | None:
    """The rows of flows that take turns: what those flows stand for that have `least` packets or more, at least 2, and which packets
    are left, in order. None when a packet is no whole one of UDP, or one of a flow is unlike the others: who knows then what
    may overtake what.

    Otherwise as `super_packet`.
    """
    at, size = shape
    length = shape.head_bytes
    flow = slice(VIRTIO_HEADER_BYTES + at - (8 if at == IPV4_HEADER_BYTES else 32), VIRTIO_HEADER_BYTES + at + 4)
    each_head = [head for (head,) in iter_unpack(f"{length}s", heads)]
    flows: dict[bytes, list[int]] = {}
    for number, head in enumerate(each_head):
        flows.setdefault(head[flow], []).append(number)
    rows: list[SuperPacket] = []
    left: list[int] = []
    if least * len(flows) > len(each_head):  # hardly a row among them
        return None
    each_payload = [payload for (payload,) in iter_unpack(f"{size}s", payloads)]
    for numbers in flows.values():
        if len(numbers) < least:
            if not all(_is_whole(bytearray(each_head[number]), shape) for number in numbers):
                return None
            left += numbers
            continue
        row = super_packet(
            shape,
            bytearray(b"".join([each_head[number] for number in numbers])),
            b"".join([each_payload[number] for number in numbers]),
        )
        if row is None:
            return None
        rows.append(row)
    return rows, sorted(left)


def _words(heads: bytearray, shape: RowShape) -> tuple[memoryview, memoryview]:
    """The identifications and the checksums of IPv4 headers, in the host's byte order."""
    words, step = memoryview(heads).cast("H"), shape.head_bytes // _WORD_BYTES
    return words[_NUMBERED.start // _WORD_BYTES :: step], words[_SUMMED.start // _WORD_BYTES :: step]


def _is_whole(head: bytearray, shape: RowShape) -> bool:
    """Whether the first of a row is as it is to be, by its `head_bytes`."""
    at, size = shape
    packet = head[VIRTIO_HEADER_BYTES:]
    length = len(packet) + size
    if head[:VIRTIO_HEADER_BYTES] != _VIRTIO[at] or packet[at + 4 : at + 6] != (length - at).to_bytes(2, "big"):
        return False
    if packet[at + UDP_CHECKSUM_AT : at + UDP_CHECKSUM_AT + 2] == b"\0\0":
        return False  # it says that there is none
    if at == IPV6_HEADER_BYTES:
        return packet[0] >> 4 == _IPV6 and packet[6] == PROTOCOL_UDP and packet[4:6] == packet[at + 4 : at + 6]
    return (
        packet[0] == _IPV4
        and packet[9] == PROTOCOL_UDP
        and packet[2:4] == length.to_bytes(2, "big")
        and packet[6:8] == _NOT_TO_FRAGMENT
        and not int.from_bytes(packet[:at], "big") % 0xFFFF
    )
