"""ICMP and ICMPv6 echo as whole IP packets, so that a node can ping through its own sessions and be pinged.

Not responsible for matching replies to requests, for time-outs, or for any other ICMP message. What arrives is hostile:
a packet that is not exactly what it should be is None, never an exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from holloway.protocols.errors import LocalError
from holloway.protocols.packets import ByteView, destination, internet_checksum, source, transport

HOP_LIMIT = 64  # RFC 1700: the recommended default time to live
MAX_PACKET_BYTES = 65535  # RFC 791, section 3.1: total length is 16 bits

_PROTOCOL_ICMP = 1  # RFC 792
_PROTOCOL_ICMPV6 = 58  # RFC 4443
_REQUEST = {_PROTOCOL_ICMP: 8, _PROTOCOL_ICMPV6: 128}  # RFC 792 "Echo"; RFC 4443, section 4.1
_REPLY = {_PROTOCOL_ICMP: 0, _PROTOCOL_ICMPV6: 129}  # RFC 792 "Echo Reply"; RFC 4443, section 4.2
_DONT_FRAGMENT = 0x4000  # RFC 6864, section 4.1: an identification of 0 is fine in a packet that is never fragmented

_IPV4 = Struct(">BBHHHBBH4s4s")
_IPV6 = Struct(">IHBB16s16s")
_ECHO = Struct(">BBHHH")
_U16 = Struct(">H")


@dataclass(frozen=True, slots=True)
class EchoReply:
    """An answer to a ping. `source` is 4 or 16 bytes, `identifier` and `sequence` are those of the request."""

    source: bytes
    identifier: int
    sequence: int
    payload: bytes


def echo_request(source: bytes, destination: bytes, identifier: int, sequence: int, payload: bytes = b"") -> bytes:
    """A ping as a whole IP packet with a hop limit of 64; the family is that of the addresses, 4 or 16 bytes each.

    Raises LocalError when the addresses are not of one family, `identifier` or `sequence` is not 0 to 65535, or the
    packet would be longer than 65535 bytes.
    """
    if len(source) != len(destination) or len(source) not in (4, 16):
        raise LocalError("no echo request", "source and destination are not two addresses of 4 or of 16 bytes")
    if not 0 <= identifier <= 0xFFFF or not 0 <= sequence <= 0xFFFF:
        raise LocalError("no echo request", "identifier and sequence go from 0 to 65535")
    if _header_bytes(source) + _ECHO.size + len(payload) > MAX_PACKET_BYTES:
        raise LocalError("no echo request", f"{len(payload)} bytes of payload do not fit in one packet")
    return _packet(_REQUEST, source, destination, identifier, sequence, payload)


def parse_echo_reply(packet: ByteView) -> EchoReply | None:
    """What an echo reply says, its checksums verified; None when the packet is anything else."""
    return _parse(packet, _REPLY)


def answer_echo(packet: ByteView) -> bytes | None:
    """The reply to an echo request with the right checksums; None when the packet is anything else.

    None also for a request to or from an address that is not one host's, which would make us an amplifier (RFC 1122,
    section 3.2.2.6; RFC 4443, section 2.2).
    """
    request = _parse(packet, _REQUEST)
    target = destination(packet)
    if request is None or target is None or not _is_host(request.source) or not _is_host(target):
        return None
    return _packet(_REPLY, target, request.source, request.identifier, request.sequence, request.payload)


def _packet(types: dict[int, int], src: bytes, dst: bytes, identifier: int, sequence: int, payload: bytes) -> bytes:
    is_ipv4 = len(src) == 4
    protocol = _PROTOCOL_ICMP if is_ipv4 else _PROTOCOL_ICMPV6
    length = _ECHO.size + len(payload)
    echo = bytearray(_ECHO.pack(types[protocol], 0, 0, identifier, sequence) + payload)
    _U16.pack_into(echo, 2, internet_checksum(echo, _pseudo_sum(protocol, src + dst, length)))
    if not is_ipv4:
        return _IPV6.pack(6 << 28, length, protocol, HOP_LIMIT, src, dst) + echo
    header = bytearray(_IPV4.pack(0x45, 0, _IPV4.size + length, 0, _DONT_FRAGMENT, HOP_LIMIT, protocol, 0, src, dst))
    _U16.pack_into(header, 10, internet_checksum(header))
    return bytes(header + echo)


def _parse(packet: ByteView, types: dict[int, int]) -> EchoReply | None:
    """The echo message of one of `types` (by protocol number) in an IP packet."""
    found, sender, target = transport(packet), source(packet), destination(packet)
    if found is None or sender is None or target is None:
        return None
    protocol, at = found
    is_ipv4 = len(sender) == 4
    echo = packet[at:]
    if protocol != (_PROTOCOL_ICMP if is_ipv4 else _PROTOCOL_ICMPV6) or len(echo) < _ECHO.size:
        return None
    kind, code, _, identifier, sequence = _ECHO.unpack_from(echo)
    if kind != types[protocol] or code:
        return None
    # The sum over a message with its checksum in place is 65535, so that its complement is 0.
    if internet_checksum(echo, _pseudo_sum(protocol, sender + target, len(echo))):
        return None
    if is_ipv4 and internet_checksum(packet[:at]):
        return None
    return EchoReply(sender, identifier, sequence, bytes(echo[_ECHO.size :]))


def _pseudo_sum(protocol: int, addresses: bytes, length: int) -> int:
    """What the checksum covers besides the message: a pseudo-header in ICMPv6 (RFC 4443, section 2.3), nothing in ICMP."""
    return int.from_bytes(addresses, "big") + protocol + length if protocol == _PROTOCOL_ICMPV6 else 0


def _header_bytes(address: bytes) -> int:
    return _IPV4.size if len(address) == 4 else _IPV6.size


def _is_host(address: bytes) -> bool:
    """Whether an address is one host's: not unspecified, not multicast, not of IPv4's reserved or broadcast space."""
    if not any(address):
        return False
    return address[0] < 224 if len(address) == 4 else address[0] != 0xFF
