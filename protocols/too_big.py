"""The ICMP answer to a packet that is too long for the tunnel, so that its sender makes shorter ones (RFC 1191, RFC 8201).

Not responsible for deciding what is too long (`path_mtu`), for how often an answer is sent, nor for delivering it.
Packets are hostile: nothing here raises for any bytes, and nothing answers what would make two hosts answer each other, or
one host suffer for another.
"""

from __future__ import annotations

from struct import Struct

from holloway.protocols.icmp import HOP_LIMIT
from holloway.protocols.packets import (
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    MAX_EXTENSION_HEADERS,
    destination,
    internet_checksum,
    total_length,
)
from holloway.protocols.packets import source as source_of

MIN_MTU_IPV4 = 576  # RFC 791, section 3.1: what every host must be able to receive
MIN_MTU_IPV6 = 1280  # RFC 8200, section 5
MAX_ANSWER_BYTES_IPV4 = 576  # RFC 1812, section 4.3.2.3
MAX_ANSWER_BYTES_IPV6 = 1280  # RFC 4443, section 3.2: the IPv6 minimum MTU

_PROTOCOL_ICMP, _PROTOCOL_ICMPV6 = 1, 58
_UNREACHABLE, _FRAGMENTATION_NEEDED = 3, 4  # RFC 792; RFC 1191, section 4
_PACKET_TOO_BIG = 2  # RFC 4443, section 3.2
_ERRORS_IPV4 = frozenset({3, 4, 5, 11, 12})  # RFC 1122, section 3.2.2: unreachable, quench, redirect, time, parameter
_FIRST_INFORMATIONAL_IPV6 = 128  # RFC 4443, section 2.1: what is less is an error
_REDIRECT_IPV6 = 137  # RFC 4443, section 2.4 (e.2), has it treated as an error
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION_OPTIONS = 0, 43, 44, 60  # RFC 8200, sections 4.3 to 4.6
_DONT_FRAGMENT, _OFFSET_BITS = 0x4000, 0x1FFF  # RFC 791, section 3.1
_INTERNETWORK_CONTROL = 0xC0  # RFC 1812, section 4.3.2.5: the precedence of ICMP errors
_LOOPBACK_IPV6 = bytes(15) + b"\1"

_IPV4 = Struct(">BBHHHBBH4s4s")
_IPV6 = Struct(">IHBB16s16s")
_ICMP = Struct(">BBHHH")  # type, code, checksum, unused, next-hop MTU
_ICMPV6 = Struct(">BBHI")  # type, code, checksum, MTU
_U16 = Struct(">H")


def too_big(packet: bytes, mtu: int, source: bytes) -> bytes | None:
    """The whole ICMP packet from `source` that tells the sender of `packet` to send at most `mtu` bytes; None for no answer.

    Quotes as much of the packet as an answer of 576 (IPv4) or 1280 bytes (IPv6) holds. Of a super-packet pass `data`: what
    a sender looks at is in its headers.

    No answer is due when `source` (4 or 16 bytes) is of another family; to a packet that is malformed, or no longer than
    the MTU that would be named; and to an IPv4 packet without DF, which may be fragmented. None may be sent (RFC 1122,
    section 3.2.2; RFC 4443, section 2.4) to an ICMP error, to a fragment other than the first, nor when one of the packet's
    addresses is not one host's: unspecified, multicast, broadcast, reserved or loopback. RFC 4443 would allow it for a
    multicast destination, but no multicast goes through a tunnel to one peer.

    The MTU named is never less than every sender may rely on, because a tunnel carries such packets, in several datagrams
    if it must. IPv6: 1280; a sender told less would send no less, only add a fragment header (RFC 8200, section 5, of old).
    IPv4: 576; RFC 1191 allows 68, at which a TCP connection would nearly stand still, and Linux would stop setting DF below
    552 (min_pmtu) and go on by sizes of its own.
    """
    if total_length(packet) != len(packet) or not packet:
        return None
    sender, target = source_of(packet), destination(packet)
    if sender is None or target is None or not _is_host(sender) or not _is_host(target):
        return None
    if len(source) != len(sender):
        return None
    if len(sender) == 4:
        mtu = max(mtu, MIN_MTU_IPV4)
        return _answer_ipv4(packet, mtu, source, sender) if len(packet) > mtu and _may_answer_ipv4(packet) else None
    mtu = max(mtu, MIN_MTU_IPV6)
    return _answer_ipv6(packet, mtu, source, sender) if len(packet) > mtu and _may_answer_ipv6(packet) else None


def _may_answer_ipv4(packet: bytes) -> bool:
    """Whether a whole IPv4 packet has DF, is no later fragment and no ICMP error."""
    flags = packet[6] << 8 | packet[7]
    if not flags & _DONT_FRAGMENT or flags & _OFFSET_BITS:
        return False
    at = (packet[0] & 15) * 4
    return packet[9] != _PROTOCOL_ICMP or packet[at] not in _ERRORS_IPV4


def _may_answer_ipv6(packet: bytes) -> bool:
    """Whether an IPv6 packet is no later fragment and no ICMPv6 error. False, too, when it does not let itself be read."""
    following, at = packet[6], IPV6_HEADER_BYTES
    for _ in range(MAX_EXTENSION_HEADERS):
        if following not in (_HOP_BY_HOP, _ROUTING, _DESTINATION_OPTIONS, _FRAGMENT):
            break
        if at + 8 > len(packet):
            return False
        if following == _FRAGMENT:
            if (packet[at + 2] << 8 | packet[at + 3]) >> 3:
                return False
            following, at = packet[at], at + 8
        else:
            following, at = packet[at], at + (packet[at + 1] + 1) * 8
    else:
        return False
    if following != _PROTOCOL_ICMPV6:
        return at <= len(packet)
    return at < len(packet) and packet[at] >= _FIRST_INFORMATIONAL_IPV6 and packet[at] != _REDIRECT_IPV6


def _answer_ipv4(packet: bytes, mtu: int, source: bytes, target: bytes) -> bytes:
    quoted = packet[: MAX_ANSWER_BYTES_IPV4 - IPV4_HEADER_BYTES - _ICMP.size]
    message = bytearray(_ICMP.pack(_UNREACHABLE, _FRAGMENTATION_NEEDED, 0, 0, mtu) + quoted)
    _U16.pack_into(message, 2, internet_checksum(message))
    # An identification of 0 is fine in a packet that is never fragmented (RFC 6864, section 4.1).
    header = bytearray(
        _IPV4.pack(
            0x45,
            _INTERNETWORK_CONTROL,
            _IPV4.size + len(message),
            0,
            _DONT_FRAGMENT,
            HOP_LIMIT,
            _PROTOCOL_ICMP,
            0,
            source,
            target,
        )
    )
    _U16.pack_into(header, 10, internet_checksum(header))
    return bytes(header + message)


def _answer_ipv6(packet: bytes, mtu: int, source: bytes, target: bytes) -> bytes:
    quoted = packet[: MAX_ANSWER_BYTES_IPV6 - IPV6_HEADER_BYTES - _ICMPV6.size]
    message = bytearray(_ICMPV6.pack(_PACKET_TOO_BIG, 0, 0, mtu) + quoted)
    pseudo = int.from_bytes(source + target, "big") + _PROTOCOL_ICMPV6 + len(message)  # RFC 4443, section 2.3
    _U16.pack_into(message, 2, internet_checksum(message, pseudo))
    return _IPV6.pack(6 << 28, len(message), _PROTOCOL_ICMPV6, HOP_LIMIT, source, target) + message


def _is_host(address: bytes) -> bool:
    """Whether an address is one host's, and not the loopback's."""
    if len(address) == 4:
        return 0 < address[0] < 224 and address[0] != 127
    return address[0] != 0xFF and any(address) and address != _LOOPBACK_IPV6
