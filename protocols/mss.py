"""MSS clamping: TCP connections through the tunnel agree on segments that fit it, and need not find out by losing some.

Both ends name the longest segment they take in the MSS option of SYN and SYN/ACK (RFC 9293, section 3.7.1). Where one names
more than the tunnel carries, the option is lowered on the way, as routers of PPPoE lines do.

Not responsible for telling a sender that a packet was too long (`too_big`), nor for what a datagram may have (`path_mtu`).
Packets are hostile: what is malformed comes back as it is, and nothing here raises for any bytes.
"""

from __future__ import annotations

from dataclasses import replace
from struct import Struct
from typing import TypeVar

from holloway.protocols.packets import (
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    PROTOCOL_TCP,
    TCP_HEADER_BYTES,
    SuperPacket,
    transport,
)

_END, _NO_OPERATION, _MSS = 0, 1, 2  # RFC 9293, section 3.1: kinds of options
_MSS_BYTES = 4
_SYN = 0x02
_DATA_OFFSET_AT, _FLAGS_AT, _CHECKSUM_AT = 12, 13, 16
_U16 = Struct(">H")

_Data = TypeVar("_Data", bound=bytes | memoryview)


def clamp_mss(packet: _Data, mtu: int) -> _Data | bytes:
    """`packet`, its MSS option lowered to what fits into `mtu` bytes if it is a TCP SYN that names more, else itself.

    What fits is `mtu` less 20 or 40 bytes of IP and 20 of TCP: options of either are for the sender to subtract, segment
    by segment (RFC 6691, section 2). An `mtu` that leaves nothing changes nothing. Of several MSS options, which no honest
    sender makes, each is lowered. The checksum is corrected, not computed anew (RFC 1624), so a wrong one stays wrong.

    Left alone: a SYN without the option, which stands for 536 bytes in IPv4 and 1220 in IPv6, no more than tunnels carry;
    and fragments, where a SYN never is. Not for packets whose checksum is left to somebody else, as it would be spoiled.
    Those that a device gives are super-packets (`virtio.from_device`): see `clamp_super_packet`.
    """
    # What is no SYN, which is nearly everything, leaves after a few comparisons.
    if len(packet) < IPV4_HEADER_BYTES + TCP_HEADER_BYTES:
        return packet
    first = packet[0]
    if first >> 4 == 4:
        flags_at = (first & 15) * 4 + _FLAGS_AT
        if packet[9] != PROTOCOL_TCP or flags_at >= len(packet) or not packet[flags_at] & _SYN:
            return packet
        limit = mtu - IPV4_HEADER_BYTES - TCP_HEADER_BYTES
    else:
        flags_at = IPV6_HEADER_BYTES + _FLAGS_AT
        if packet[6] == PROTOCOL_TCP and (flags_at >= len(packet) or not packet[flags_at] & _SYN):
            return packet
        limit = mtu - IPV6_HEADER_BYTES - TCP_HEADER_BYTES
    found = transport(packet)
    if limit < 1 or found is None or found[0] != PROTOCOL_TCP:
        return packet
    return _clamped(packet, found[1], limit)


def clamp_super_packet(packet: SuperPacket, mtu: int) -> SuperPacket:
    """The same for a packet of the local TCP, whose SYNs come with their checksum unfinished.

    That checksum does not cover the option yet, or is made anew before anybody reads it, so correcting it is left out by
    putting it back.
    """
    data = packet.data
    clamped = clamp_mss(data, mtu)
    if clamped is data:
        return packet
    found = transport(data)
    assert found is not None
    at = found[1] + _CHECKSUM_AT
    return replace(packet, data=b"".join((clamped[:at], data[at : at + 2], clamped[at + 2 :])))


def begins_connection(packet: SuperPacket) -> bool:
    """Whether `clamp_super_packet` may have something to do."""
    found = packet.layout
    return found is None or (found.protocol == PROTOCOL_TCP and bool(packet.data[found.at + _FLAGS_AT] & _SYN))


def _clamped(packet: _Data, at: int, limit: int) -> _Data | bytes:
    """`packet` with a TCP header at `at`, its MSS option lowered to `limit` if it is a SYN."""
    begin = at + TCP_HEADER_BYTES
    if len(packet) < begin or not packet[at + _FLAGS_AT] & _SYN:
        return packet
    end = at + (packet[at + _DATA_OFFSET_AT] >> 4) * 4
    if end > len(packet):
        return packet
    places = [place for place in _mss_places(packet, begin, end) if _U16.unpack_from(packet, place)[0] > limit]
    if not places:
        return packet
    changed = bytearray(packet)
    (checksum,) = _U16.unpack_from(packet, at + _CHECKSUM_AT)
    total = 0xFFFF - checksum
    for place in places:
        (before,) = _U16.unpack_from(packet, place)
        _U16.pack_into(changed, place, limit)
        # RFC 1624, equation 3. Words are counted from the TCP header, which begins at an even place.
        change = 0xFFFF - before + limit
        total += change if (place - at) % 2 == 0 else _swapped(0xFFFF - before) + _swapped(limit)
    # Ends with one carry or none for each word added; 40 bytes of options have room for ten.
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    _U16.pack_into(changed, at + _CHECKSUM_AT, 0xFFFF - total)
    return bytes(changed)


def _mss_places(packet: bytes | memoryview, at: int, end: int) -> list[int]:
    """Where the values of MSS options are among the TCP options from `at` to `end`, up to the first malformed one."""
    places = []
    while at < end and packet[at] != _END:
        if packet[at] == _NO_OPERATION:
            at += 1
            continue
        length = packet[at + 1] if at + 1 < end else 0
        if length < 2 or at + length > end:
            break
        if packet[at] == _MSS and length == _MSS_BYTES:
            places.append(at + 2)
        at += length
    return places


def _swapped(word: int) -> int:
    """The two bytes of a word in the other order: what it adds to a sum in which it lies across two words."""
    return (word & 0xFF) << 8 | word >> 8
