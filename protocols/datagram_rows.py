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

from functools import lru_cache
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
# Identification and checksum (RFC 791, section 3.1) behind a virtio header: what is each packet's own.
_NUMBER, _SUM = VIRTIO_HEADER_BYTES + 4, VIRTIO_HEADER_BYTES + 10
_OWN_COLUMNS = (_NUMBER, _NUMBER + 1, _SUM, _SUM + 1)
_NOUGHTS = bytes(MAX_ROW_PACKETS)
_ONES = tuple(int.from_bytes(b"\0\0\0\1" * count, "big") for count in range(MAX_ROW_PACKETS + 1))
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
    length = shape.head_bytes
    count = len(heads) // length
    is_ipv4 = shape.at == IPV4_HEADER_BYTES
    alike = heads
    number = heads[:0]
    numbered = 0
    if is_ipv4:
        number = heads[_NUMBER : _NUMBER + 2]
        found = _common_sum(heads, length, count)
        if found is None:
            return None
        numbered = found
        alike = bytearray(heads)
        for column in _OWN_COLUMNS:
            alike[column::length] = _NOUGHTS[:count]
    template = bytes(alike[:length])
    if alike != template * count:
        return None
    ready = _ready(template, shape, len(payloads))
    if ready is None or ready.numbered != numbered:
        return None
    header = ready.header
    parts: tuple[ByteView, ...] = (header, payloads)
    if is_ipv4:
        checksum = (int.from_bytes(header[10:12], "big") - int.from_bytes(number, "big")) % 0xFFFF
        parts = header[:4], number, header[6:10], checksum.to_bytes(2, "big"), header[12:], payloads
    return OffloadedPacket(b"".join(parts), shape.size, ready.virtio, known_layout=ready.layout)


class _Ready(NamedTuple):
    """What all rows with like headers have in common."""

    header: bytes  # of the super-packet, with identification 0 in IPv4
    virtio: bytes
    layout: Layout
    numbered: int  # what identification and checksum of each packet come to, modulo 65535; 0 in IPv6


@lru_cache(maxsize=256)  # as many lengths of row as flows have
def _ready(template: bytes, shape: RowShape, payload_bytes: int) -> _Ready | None:
    """For rows with `payload_bytes` of payload in all, whose packets have the headers `template`, but for identification and
    checksum in IPv4, which are 0 there. None if those headers are not as they are to be.
    """
    if not _is_whole(template, shape):
        return None
    at, size = shape
    header = bytearray(template[VIRTIO_HEADER_BYTES:])
    is_ipv4 = at == IPV4_HEADER_BYTES
    numbered = -int.from_bytes(header[:at], "big") % 0xFFFF if is_ipv4 else 0
    finish_header(header, PROTOCOL_UDP, at, len(header) + payload_bytes)
    virtio = offload_header(PROTOCOL_UDP, is_ipv4, at, len(header), size)
    return _Ready(bytes(header), virtio, Layout(PROTOCOL_UDP, at, len(header)), numbered)


def _common_sum(heads: bytearray, length: int, count: int) -> int | None:
    """What identification and checksum come to in each of the IPv4 headers, modulo 65535; None when that differs.

    Where all else is alike, every checksum is right if one is, and makes up for what the identification differs.
    """
    # A digit of 32 bits for each packet, so that one addition adds all, and no digit runs over.
    numbers, sums = bytearray(4 * count), bytearray(4 * count)
    numbers[2::4], numbers[3::4] = heads[_NUMBER::length], heads[_NUMBER + 1 :: length]
    sums[2::4], sums[3::4] = heads[_SUM::length], heads[_SUM + 1 :: length]
    total = int.from_bytes(numbers, "big") + int.from_bytes(sums, "big")
    common = (total >> 32 * (count - 1)) % 0xFFFF
    rest = total - common * _ONES[count]
    if rest < 0:
        return None
    # Whoever has the same sum modulo 65535 has the digit 0 or 65535 now. (Or 131070, from a checksum that nobody makes.)
    digits = rest.to_bytes(4 * count, "big")
    low = digits[3::4]
    is_common = (
        digits[0::4] == digits[1::4] == _NOUGHTS[:count] and digits[2::4] == low and not low.translate(None, b"\0\xff")
    )
    return common if is_common else None


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
            if not all(_is_whole(each_head[number], shape) for number in numbers):
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


def _is_whole(head: bytes, shape: RowShape) -> bool:
    """Whether a packet is as it is to be in a row, by its `head_bytes`; but for the checksum of IPv4."""
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
    )
