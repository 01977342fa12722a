"""What records of the `aes-gcm` suite hold: inner packets into plaintexts and back.

    packets ──plan──► records ──seal──► datagrams ~~~► sealed record ──open_record──► plaintext ──packets_of──► packets

A record is sealed once and may span up to 64 datagrams, so that a 64 KiB super-packet costs one call of the cipher instead
of 45. It is all or nothing: one datagram lost loses the record. How many datagrams may share that fate is decided elsewhere
(`record_size`); sealing, cutting and joining are `record_wire`.

Three kinds of record carry packets. Their difference is who makes the transport checksum:

* `PACKETS`: whole packets back to back, as they came.
* `UNFINISHED`: the same, but nobody has summed the payload of the TCP and UDP packets among them. The sender's kernel left
  that to whoever sends them on; as the payload is authenticated here, it is left to the receiver's kernel.
* `SUPER_PACKETS`: 2 bytes, the segment size, before each. All that a device wants to know beyond that (the virtio header,
  lengths, checksums) the receiver derives from the packet itself, so that no peer dictates it.

A super-packet that does not fit into one record is cut between segments into smaller ones with headers of their own, so
each record stands alone, and what arrives is what `SuperPacket.segments` of the original would have sent.

Plaintexts come from an authenticated but perhaps hostile peer: nothing raises for any bytes.
Bytes on the wire: `docs/protocol.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct

from holloway.protocols.checksums import partial_checksum
from holloway.protocols.errors import LocalError
from holloway.protocols.noise import TAG_BYTES
from holloway.protocols.packets import (
    FRAGMENT_BITS,
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    MAX_SEGMENTS,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    TCP_HEADER_BYTES,
    ByteView,
    Layout,
    Packet,
    SuperPacket,
    UnfinishedPacket,
    layout_of,
    plain_tcp_layout,
    total_length,
)
from holloway.protocols.record_wire import MAX_DATAGRAMS, MAX_PLAINTEXT_BYTES, SIZE_BYTES, Record, RecordKind
from holloway.protocols.virtio import (
    MAX_UDP_SEGMENTS,
    OffloadedPacket,
    finish_header,
    is_finished,
    offload_header,
)

_SIZE = Struct("<H")
_U16 = Struct(">H")
_U16_U16 = Struct(">HH")
_U32 = Struct(">I")
_TCP_FIN, _TCP_PSH, _TCP_CWR = 0x01, 0x08, 0x80  # RFC 9293, section 3.1
PLAIN_TCP = Struct(">2sBxHxxHxB2x8s12xB3xH")
"""A record that begins with a packet of TCP in IPv4 without options: the segment size. Of IP: version and header length, length,
fragment, protocol, addresses. Of TCP: where its options end, checksum."""
_PLAIN_IPV4 = 0x45  # version 4, a header without options
_PLAIN_IP = slice(SIZE_BYTES, SIZE_BYTES + IPV4_HEADER_BYTES)
_TO_BE_FINISHED = 0xFFFF  # in UDP, 0 would say that there is no checksum


def capacity(room: int, datagrams: int) -> int:
    """How many bytes of plaintext `datagrams` datagrams hold that have `room` bytes each beside header and tag.

    There is one tag a record, so that every further datagram holds 16 bytes more than the first.
    """
    return min(datagrams * (room + TAG_BYTES) - TAG_BYTES, MAX_PLAINTEXT_BYTES)


def plan(packets: Sequence[Packet], room: int, datagrams: int) -> tuple[list[Record], int]:
    """Records that carry `packets` in order, and how many packets were malformed or too long for any record.

    `room`: inner bytes a datagram, at least 1. `datagrams`: how many may share a record, 1 to 64; a single packet longer
    than that is spread over more rather than left to the network to fragment. An empty packet is a keepalive. A packet
    that is not as long as it says gets a record of its own, for the receiver to judge, because a packet's own length is
    where the receiver cuts. Raises `LocalError` for other numbers.
    """
    if room < 1 or not 1 <= datagrams <= MAX_DATAGRAMS:
        raise LocalError("no records", f"{datagrams} datagrams of {room} bytes are not 1 to 64 of at least 1")
    packer = _Packer(capacity(room, datagrams), room + TAG_BYTES)
    for packet in packets:
        if isinstance(packet, SuperPacket):
            packer.add_super_packet(packet)
        elif isinstance(packet, UnfinishedPacket):
            packer.add_unfinished(packet)
        else:
            packer.add(RecordKind.PACKETS, len(packet), packet)
    packer.flush()
    return packer.records, packer.refused


def bundles(packets: Iterable[bytes], limit: int) -> list[list[bytes]]:
    """The packets in order, shared out so that those of each share have `limit` bytes at the most together and each is as long as it
    says; any other packet is by itself.
    """
    made: list[list[bytes]] = []
    room = 0
    for packet in packets:
        is_right = 0 < len(packet) == total_length(packet)
        room -= len(packet)
        if not is_right or room < 0:
            made.append([packet])
            room = limit - len(packet) if is_right else 0
        else:
            made[-1].append(packet)
    return made


class _Packer:
    """Puts packets of one kind that follow each other into as few records as hold them."""

    __slots__ = ("_is_shared", "_kind", "_length", "_limit", "_parts", "_piece", "records", "refused")

    def __init__(self, limit: int, piece: int) -> None:
        self._limit, self._piece = limit, piece
        self._kind = RecordKind.PACKETS
        self._parts: list[ByteView] = []
        self._length = 0
        self._is_shared = False  # whether what is in the open record is known to be as long as it says
        self.records: list[Record] = []
        self.refused = 0

    def add(self, kind: RecordKind, length: int, *parts: ByteView) -> None:
        """A packet of `length` bytes, in parts that are joined only in its record."""
        if self._parts:
            if (
                kind is self._kind
                and self._length + length <= self._limit
                and (kind is not RecordKind.PACKETS or self._may_share(parts[0]))
            ):
                self._parts += parts
                self._length += length
                self._is_shared = True
                return
            self.flush()
        self._kind, self._length = kind, length
        self._parts += parts

    def add_unfinished(self, packet: UnfinishedPacket) -> None:
        """The same for a packet of kind `UNFINISHED`, of which there are most when there are many."""
        length = self._length + len(packet)
        if self._kind is RecordKind.UNFINISHED and length <= self._limit and self._parts:
            self._parts.append(packet)
            self._length = length
        else:
            self.add(RecordKind.UNFINISHED, len(packet), packet)

    def _may_share(self, packet: ByteView) -> bool:
        return total_length(packet) == len(packet) and (
            self._is_shared or total_length(self._parts[0]) == len(self._parts[0])
        )

    def flush(self) -> None:
        """Close the open record, if there is one."""
        parts = self._parts
        if not parts:
            return
        sealed = self._length + TAG_BYTES
        count = -(-sealed // self._piece)
        if count > MAX_DATAGRAMS:
            self.refused += 1  # one packet alone: a record with room for two is not as long
        else:
            padding = -sealed % count
            if padding:
                parts.append(bytes(padding))
            self.records.append(Record(self._kind, b"".join(parts), count))
        parts.clear()
        self._is_shared = False

    def add_super_packet(self, packet: SuperPacket) -> None:
        """In parts of whole segments that fit in a record each, if one segment does; refused when malformed."""
        data, size = packet.data, packet.segment_size
        found = packet.layout
        if found is None or size < 1 or len(data) - found[2] > size * MAX_SEGMENTS:
            self.refused += 1
            return
        protocol, at, start = found
        payload = len(data) - start
        if payload <= size:
            self._add_parts(data, size, size, protocol, at, start)
            return
        segments = -(-payload // size)
        if not self._parts and 2 * len(data) > self._limit >= SIZE_BYTES + len(data):
            # As nearly always in a bulk flow: one that fills more than half of a record, and shares it with nobody.
            sealed = SIZE_BYTES + len(data) + TAG_BYTES
            count = -(-sealed // self._piece)
            self.records.append(
                Record(RecordKind.SUPER_PACKETS, b"".join((_SIZE.pack(size), data, bytes(-sealed % count))), count)
            )
            return
        most = max(1, (self._limit - SIZE_BYTES - start) // size)
        if most >= segments:
            self.add(RecordKind.SUPER_PACKETS, SIZE_BYTES + len(data), _SIZE.pack(size), data)
        else:
            # Parts of nearly one length make datagrams of one length, which leave by one call.
            step = -(-segments // -(-segments // most)) * size
            self._add_parts(data, size, step, protocol, at, start)

    def _add_parts(self, data: ByteView, size: int, step: int, protocol: int, at: int, start: int) -> None:
        """A packet for each `step` bytes of payload, its headers as Linux makes them (see `SuperPacket.segments`).

        The transport checksums are not made: the receiver sees to them.
        """
        view, end, add = memoryview(data), len(data), self.add
        header = bytearray(data[:start])
        is_ipv4, is_tcp = data[0] >> 4 == 4, protocol == PROTOCOL_TCP
        identification = sequence = flags = ip_sum = 0
        if is_ipv4:
            (identification,) = _U16.unpack_from(header, 4)
            header[2:6] = bytes(4)
            header[10:12] = bytes(2)
            ip_sum = int.from_bytes(header[:at], "big") % 0xFFFF
        if is_tcp:
            (sequence,) = _U32.unpack_from(header, at + 4)
            flags = header[at + 13]
            header[at + 13] = flags & ~(_TCP_FIN | _TCP_PSH)
        prefix, kind, unfinished = _SIZE.pack(size), RecordKind.SUPER_PACKETS, RecordKind.UNFINISHED
        is_whole = step > size
        # No two of these segments fit in a record: where each fits in a datagram, every one makes a record.
        alone, append = start + size, self.records.append
        if step == size < end - start and alone + TAG_BYTES <= self._piece:
            self.flush()
        else:
            alone = 0
        for begin in range(start, end, step) or (start,):
            stop = begin + step
            if stop >= end:
                stop = end
                is_whole = end - begin > size
                if is_tcp:
                    header[at + 13] = flags
            length = start + stop - begin
            offset = begin - start
            if is_ipv4:
                number = identification + offset // size & 0xFFFF
                _U16_U16.pack_into(header, 2, length, number)
                _U16.pack_into(header, 10, 0xFFFF - ((ip_sum + length + number) % 0xFFFF or 0xFFFF))
            else:
                _U16.pack_into(header, 4, length - IPV6_HEADER_BYTES)
            if is_tcp:
                _U32.pack_into(header, at + 4, sequence + offset & 0xFFFFFFFF)
                if offset:
                    header[at + 13] &= ~_TCP_CWR
            else:
                _U16_U16.pack_into(header, at + 4, length - at, _TO_BE_FINISHED)
            if length == alone:
                append(Record(unfinished, bytes(header) + view[begin:stop], 1))
            elif is_whole:
                add(kind, SIZE_BYTES + length, prefix, bytes(header), view[begin:stop])
            else:
                add(unfinished, length, bytes(header), view[begin:stop])


def packets_of(plaintext: bytes, datagrams: int) -> list[bytes] | None:
    """The packets of a record of kind `PACKETS` or `UNFINISHED`; None when it is malformed.

    Those of an `UNFINISHED` record must go through `coalesce(..., Checksums.GOOD)` before anybody else sees them.
    """
    end = len(plaintext)
    length = total_length(plaintext)
    if length == end:
        return [plaintext] if plaintext else []
    packets: list[bytes] = []
    offset = 0
    while offset < end:
        if plaintext[offset] == _PLAIN_IPV4 and end - offset >= IPV4_HEADER_BYTES:  # a call less for each
            length = plaintext[offset + 2] << 8 | plaintext[offset + 3]
            if not IPV4_HEADER_BYTES <= length <= end - offset:
                length = 0
        else:
            length = total_length(plaintext, offset)
        if not length:
            return packets if _is_padding(plaintext, offset, datagrams) else None
        packets.append(plaintext[offset : offset + length])
        offset += length
    return packets


def super_packets_of(plaintext: bytes, datagrams: int) -> list[SuperPacket] | None:
    """The super-packets of a record of that kind; None when it is malformed.

    One that a device takes is an `OffloadedPacket`: its virtio header, lengths and IP checksum are made here.
    """
    if (only := only_plain_tcp(plaintext, datagrams)) is not None:
        return [only]
    view, end = memoryview(plaintext), len(plaintext)
    packets: list[SuperPacket] = []
    offset = 0
    while offset < end:
        (size,) = _SIZE.unpack_from(plaintext, offset) if end - offset > SIZE_BYTES else (0,)
        begin = offset + SIZE_BYTES
        length = total_length(plaintext, begin) if size else 0
        if not length:
            return packets if _is_padding(plaintext, offset, datagrams) else None
        offset = begin + length
        packet = _rebuilt(view[begin:offset], size)
        if packet is None:
            return None
        packets.append(packet)
    return packets


def only_plain_tcp(plaintext: bytes | memoryview, datagrams: int) -> OffloadedPacket | None:
    """The packet of a record with nothing but one of TCP in IPv4 without options, made right by the sender's device, as nearly
    every one of a bulk flow is. None for any other record.
    """
    if len(plaintext) < PLAIN_TCP.size:
        return None
    prefix, first, length, fragment, protocol, addresses, offset, checksum = PLAIN_TCP.unpack_from(plaintext)
    end = SIZE_BYTES + length
    size = int.from_bytes(prefix, "little")
    payload_at = IPV4_HEADER_BYTES + (offset >> 4) * 4
    if (
        first != _PLAIN_IPV4
        or protocol != PROTOCOL_TCP
        or fragment & FRAGMENT_BITS
        or not 0 <= len(plaintext) - end < datagrams
        or payload_at < IPV4_HEADER_BYTES + TCP_HEADER_BYTES
        or not size < length - payload_at <= size * MAX_SEGMENTS
        or checksum != _plain_tcp_sum(addresses, length)
    ):
        return None
    layout, virtio = _plain_tcp_headers(payload_at, size)
    packet = OffloadedPacket(memoryview(plaintext)[SIZE_BYTES:end], size, virtio, known_layout=layout)
    return packet if is_right(plaintext, packet) else None


def is_right(plaintext: bytes | memoryview, packet: SuperPacket) -> bool:
    """Whether what `PLAIN_TCP` does not show is as `only_plain_tcp` wants it, in a record that shows the same as that of `packet`."""
    if int.from_bytes(plaintext[_PLAIN_IP], "big") % 0xFFFF:
        return False
    end = SIZE_BYTES + len(packet.data)
    return end == len(plaintext) or not any(plaintext[end:])


@lru_cache(maxsize=256)
def _plain_tcp_sum(addresses: bytes, length: int) -> int:
    """The partial checksum of TCP in an IPv4 packet of `length` bytes without options. `addresses`: 8 bytes."""
    return partial_checksum(int.from_bytes(addresses, "big") + PROTOCOL_TCP + length - IPV4_HEADER_BYTES)


@lru_cache(maxsize=256)
def _plain_tcp_headers(payload_at: int, size: int) -> tuple[Layout, bytes]:
    """The layout of such a packet, and the virtio header of one with segments of `size` bytes."""
    virtio = offload_header(PROTOCOL_TCP, True, IPV4_HEADER_BYTES, payload_at, size)
    return plain_tcp_layout(payload_at), virtio


def _is_padding(plaintext: bytes, offset: int, datagrams: int) -> bool:
    """Whether the rest is what makes the pieces of a record equally long, as `plan` does it."""
    return len(plaintext) - offset < datagrams and not any(plaintext[offset:])


def _rebuilt(view: memoryview, size: int) -> SuperPacket | None:
    found = layout_of(view)
    if found is None:
        return None
    protocol, at, start = found
    payload = len(view) - start
    if not size < payload <= size * MAX_SEGMENTS:
        return None
    if protocol == PROTOCOL_UDP and payload > size * MAX_UDP_SEGMENTS:
        return SuperPacket(bytes(view), size)
    data: bytes | memoryview = view
    if not is_finished(view, protocol, at):  # the sender's device has seen to that, unless he has none
        header = bytearray(view[:start])
        finish_header(header, protocol, at, len(view))
        data = b"".join((header, view[start:]))
    virtio = offload_header(protocol, data[0] >> 4 == 4, at, start, size)
    return OffloadedPacket(data, size, virtio, known_layout=found)
