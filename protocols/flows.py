"""Numbers that spread flows over several queues, and keep each flow on one.

The same bytes have the same number in every run and every process. Not responsible for the queues.
"""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

from holloway.protocols.addresses import Address
from holloway.protocols.packets import (
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    Packet,
    SuperPacket,
)

ADDRESSES_REMEMBERED = 8192

_PLAIN_IPV4 = 0x45  # RFC 791, section 3.1: version 4, and a header without options
_VERSION_6 = 6
_WITH_PORTS = frozenset({PROTOCOL_TCP, PROTOCOL_UDP})
_PORTS_BYTES = 4


def flow_number(packet: Packet) -> int:
    """A number for the flow, of one direction, that a packet belongs to: 32 bits of its addresses, and of its ports if it has
    some in the usual place, as fragments have not. Any bytes have one.
    """
    data = packet.data if isinstance(packet, SuperPacket) else packet
    if len(data) < IPV4_HEADER_BYTES:
        return 0
    if data[0] >> 4 == _VERSION_6:
        return crc32(data[8 : IPV6_HEADER_BYTES + _PORTS_BYTES * (data[6] in _WITH_PORTS)])
    has_ports = data[0] == _PLAIN_IPV4 and data[9] in _WITH_PORTS and not (data[6] & 0x3F or data[7])
    return crc32(data[12 : IPV4_HEADER_BYTES + _PORTS_BYTES * has_ports])


@lru_cache(maxsize=ADDRESSES_REMEMBERED)
def address_number(address: Address) -> int:
    """A number of 32 bits for a socket address."""
    return crc32(f"{address[0]} {address[1]}".encode())
