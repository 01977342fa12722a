"""A capture of one simulated run, as Wireshark and tcpdump read it: what was on the wire, and what each node got out of it.

The file is pcapng (IETF draft-ietf-opsawg-pcapng). Its first interface, "wire", has every datagram that was put on the
wire, lost ones too, in headers of IP and UDP made here; one further interface for each node, "a inside", has the packets
that went into the tunnel and came out of it there. Times are virtual, to the nanosecond, on a wall clock that stands at
`WALL_START_NS` at virtual time 0. The same run gives the same bytes. Not responsible for deciding what is worth capturing.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import IO

from holloway.protocols.addresses import Address, format_address
from holloway.protocols.errors import LocalError
from holloway.protocols.packets import internet_checksum
from holloway.simulations.clocks import WALL_START_NS

# draft-ietf-opsawg-pcapng, sections 4.1, 4.2 and 4.3: blocks and options.
_SECTION_HEADER, _INTERFACE, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_LENGTH_UNKNOWN = (1 << 64) - 1
_USER_APPLICATION, _NAME, _RESOLUTION, _FLAGS, _END = 4, 2, 9, 2, 0
_NANOSECONDS = 9
_INBOUND, _OUTBOUND = 1, 2
LINKTYPE_NULL = 0
"""Before each packet stands its family, in four bytes. LINKTYPE_RAW, without them, would say the same, but libpcap 1.10
refuses a file with a second interface of that type: it compares the number in the file with its own for the first.
"""
_FAMILIES = {4: 2, 6: 24}  # of BSD, by the version of IP, as the registry of link types has them

MAX_PACKET_BYTES = 65_535 + 40  # the payload of IPv6 and its header
_UDP, _TTL, _DO_NOT_FRAGMENT = 17, 64, 0x4000
_UDP_BYTES = 8
_MAX_IPV4_BYTES = _MAX_IPV6_PAYLOAD = 65_535


class Capture:
    """Writes a capture to `file`, a binary one, as it goes; an interface appears at its first packet."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._interfaces: dict[str, int] = {}
        body = struct.pack("<IHHQ", _BYTE_ORDER_MAGIC, 1, 0, _LENGTH_UNKNOWN)
        self._write(_SECTION_HEADER, body + _option(_USER_APPLICATION, b"holloway simulate") + _option(_END, b""))
        self._interface("wire")

    def wire(self, at_ns: int, source: Address, destination: Address, datagram: bytes) -> None:
        """A datagram is put on the wire at `at_ns` of virtual time.

        Raises `LocalError` for addresses that are none or of two families, and for what no UDP datagram can hold.
        """
        self._packet("wire", at_ns, _wrap(source, destination, datagram), _OUTBOUND)

    def inside(self, at_ns: int, node: str, packet: bytes, *, is_entering: bool = False) -> None:
        """A packet came out of the tunnel at `node`, or, if `is_entering`, went into it there.

        Raises `LocalError` for one that is larger than a packet can be.
        """
        self._packet(f"{node} inside", at_ns, packet, _OUTBOUND if is_entering else _INBOUND)

    def _packet(self, interface: str, at_ns: int, packet: bytes, direction: int) -> None:
        if at_ns < 0 or len(packet) > MAX_PACKET_BYTES:
            raise LocalError("cannot capture this packet", f"{len(packet)} bytes at {at_ns} ns of virtual time")
        number = self._interface(interface)
        high, low = divmod(WALL_START_NS + at_ns, 1 << 32)
        framed = struct.pack("<I", _FAMILIES.get(packet[0] >> 4, 0) if packet else 0) + packet
        head = struct.pack("<IIIII", number, high, low, len(framed), len(framed))
        options = _option(_FLAGS, struct.pack("<I", direction)) + _option(_END, b"")
        self._write(_ENHANCED_PACKET, head + _padded(framed) + options)

    def _interface(self, name: str) -> int:
        number = self._interfaces.get(name)
        if number is None:
            number = self._interfaces[name] = len(self._interfaces)
            options = _option(_NAME, name.encode()) + _option(_RESOLUTION, bytes((_NANOSECONDS,))) + _option(_END, b"")
            self._write(_INTERFACE, struct.pack("<HHI", LINKTYPE_NULL, 0, 0) + options)
        return number

    def _write(self, kind: int, body: bytes) -> None:
        length = struct.pack("<I", len(body) + 12)
        self._file.write(struct.pack("<I", kind) + length + body + length)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    """To whole words of 32 bits."""
    return data + bytes(-len(data) % 4)


def _wrap(source: Address, destination: Address, datagram: bytes) -> bytes:
    """A datagram in the headers of UDP (RFC 768) and of IPv4 (RFC 791) or IPv6 (RFC 8200)."""
    try:
        here, there = ip_address(_host(source)), ip_address(_host(destination))
        ports = struct.pack("!HH", source[1], destination[1])
    except (ValueError, struct.error) as error:
        who = f"{format_address(source)} to {format_address(destination)}"
        raise LocalError("cannot capture a datagram", f"{who}: {error}") from error
    length = _UDP_BYTES + len(datagram)
    if isinstance(here, IPv4Address) and isinstance(there, IPv4Address) and length + 20 <= _MAX_IPV4_BYTES:
        start = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, 0, _DO_NOT_FRAGMENT, _TTL, _UDP)
        ends = here.packed + there.packed
        header = start + struct.pack("!H", internet_checksum(start + b"\0\0" + ends)) + ends
    elif isinstance(here, IPv6Address) and isinstance(there, IPv6Address) and length <= _MAX_IPV6_PAYLOAD:
        ends = here.packed + there.packed
        header = struct.pack("!IHBB", 6 << 28, length, _UDP, _TTL) + ends
    else:
        raise LocalError("cannot capture a datagram", f"{len(datagram)} bytes from {here} to {there}")
    pseudo = ends + struct.pack("!IxxxB", length, _UDP)  # the sum is the same for both families: zeros add nothing
    head = ports + struct.pack("!H", length)
    checksum = internet_checksum(pseudo + head + b"\0\0" + datagram) or 0xFFFF  # 0 would mean that there is none
    return header + head + struct.pack("!H", checksum) + datagram


def _host(address: Address) -> str:
    """Without the scope of a link-local address, which is no part of a packet."""
    return address[0].partition("%")[0]
