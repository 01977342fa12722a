"""Super-packets that are not what they should be, and a judge of what comes of them.

Responsible for hostile bytes of up to 64 kilobytes, from a random generator that the test seeds, and for telling whether a
packet is a cut of another: the same addresses and ports, and a piece of its payload. The judge finds headers on its own, by
RFC 791, RFC 8200, RFC 9293 and RFC 768. Not responsible for who lets them in.
"""

from __future__ import annotations

import random
import struct
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from super_packets import super_packet

from holloway.protocols.packets import Packet, SuperPacket, total_length

MAX_PACKET_BYTES = 65_535
HEADERS_BYTES = 100  # where a spoilt byte does most harm
SIZES = (0, 1, 7, 100, 536, 1208, 1368, 1448, 9000, 0x7FFF, 0xFFFE, 0xFFFF)
GSO_TYPES = (0, 1, 3, 4, 5, 0x80, 0x81, 0x84, 0x85, 2, 0xFF)
EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options
TCP, UDP = 6, 17


class Headers(NamedTuple):
    """What tells one flow from another, and where the payload begins. `protocol` is 0 for what is neither TCP nor UDP, and
    for fragments. A TCP header whose own length cannot be is not sound, and counts as one without options.
    """

    addresses: bytes
    protocol: int
    ports: bytes
    transport_at: int
    payload_at: int
    is_sound: bool = True


def headers(packet: bytes) -> Headers | None:
    """The headers of a packet of IPv4 or IPv6; None when they are not all there or its length is not what it says."""
    if len(packet) < 20:
        return None
    if packet[0] >> 4 == 4:
        at, said = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        addresses, protocol = packet[12:20], packet[9]
        if at < 20 or at > len(packet):
            return None
        if int.from_bytes(packet[6:8], "big") & 0x3FFF:
            protocol = 0
    elif packet[0] >> 4 == 6 and len(packet) >= 40:
        at, said = 40, 40 + int.from_bytes(packet[4:6], "big")
        addresses, protocol = packet[8:40], packet[6]
        while protocol in EXTENSIONS:
            if at + 8 > len(packet):
                return None
            protocol, at = packet[at], at + 8 * (packet[at + 1] + 1)
    else:
        return None
    if said != len(packet):
        return None
    if protocol == UDP and at + 8 <= len(packet):
        return Headers(addresses, protocol, packet[at : at + 4], at, at + 8)
    if protocol == TCP and at + 20 <= len(packet):
        payload_at = at + (packet[at + 12] >> 4) * 4
        is_sound = at + 20 <= payload_at <= len(packet)
        return Headers(addresses, protocol, packet[at : at + 4], at, payload_at if is_sound else at + 20, is_sound)
    return Headers(addresses, 0, b"", at, at) if at <= len(packet) else None


def has_right_sum(packet: bytes) -> bool:
    """Whether the transport checksum of a TCP or UDP packet is right, and in UDP the length, too."""
    found = headers(packet)
    assert found is not None
    segment = packet[found.transport_at :]
    if found.protocol == UDP and int.from_bytes(segment[4:6], "big") != len(segment):
        return False
    summed = found.addresses + struct.pack(">HH", found.protocol, len(segment)) + segment + bytes(len(segment) & 1)
    total: int = sum(struct.unpack(f">{len(summed) // 2}H", summed))
    return total % 0xFFFF == 0


class Sent:
    """Everything that a sender has sent, to be compared with what came out elsewhere."""

    def __init__(self, packets: Iterable[bytes] = ()) -> None:
        self._of: dict[bytes, list[bytes]] = defaultdict(list)
        for packet in packets:
            self.add(packet)

    def add(self, packet: bytes) -> None:
        """A packet as it went in. What is behind the length that it tells does not belong to it, and the kernel drops it."""
        packet = packet[: total_length(packet)]
        found = headers(packet)
        if found is not None:
            self._of[found.addresses + found.ports].append(packet)

    def holds(self, packet: bytes) -> bool:
        """Whether `packet` is a cut of one of those: flow and headers of the same length, a piece of its payload."""
        found = headers(packet)
        if found is None:
            return False
        payload = packet[found.payload_at :]
        return any(payload in whole[found.payload_at :] for whole in self._of[found.addresses + found.ports])


def random_super_packet(rng: random.Random, *, most: int = MAX_PACKET_BYTES) -> SuperPacket:
    """A sound super-packet with a payload that no other has."""
    tcp, version = rng.random() < 0.7, rng.choice((4, 6))
    options = rng.choice((0, 12, 40)) if tcp else 0
    payload = rng.choice((0, 1, 900, rng.randrange(60_000), 65_000, 65_395))
    made = super_packet(
        min(payload, most - 100),
        rng.choice((100, 536, 1208, 1368, 1448)),
        version=version,
        tcp=tcp,
        serial=rng.randrange(1000),
        flags=rng.choice((0x10, 0x18, 0x19, 0x98, 0xD9)),
        options=options,
    )
    data = data_of(made)
    found = headers(data)
    assert found is not None
    return SuperPacket(data[: found.payload_at] + rng.randbytes(len(data) - found.payload_at), made.segment_size)


def spoilt(rng: random.Random, data: bytes) -> bytes:
    """`data` with one to four things done to it that a careful reader must see, or must not be harmed by."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not made:
            break
        near = rng.randrange(min(len(made), HEADERS_BYTES))
        match rng.randrange(8):
            case 0:
                made[near] ^= 1 << rng.randrange(8)
            case 1:
                made[near] = rng.choice((0, 1, 0x45, 0x4F, 0x50, 0x60, 0xF0, 0xFF))
            case 2:
                made[near : near + 2] = rng.choice((0, 1, 7, 8, 0x7FFF, 0xFFFE, 0xFFFF)).to_bytes(2, "big")
            case 3:
                del made[rng.choice((near, rng.randrange(len(made)))) :]
            case 4:
                made += rng.randbytes(rng.randint(1, 40))
            case 5:
                del made[near : near + rng.randint(1, 8)]
            case 6:
                made[near:near] = rng.randbytes(rng.randint(1, 8))
            case _:
                made[near : near + 20] = rng.randbytes(20)
        if rng.random() < 0.7:
            tell_length(made)
    return bytes(made[:MAX_PACKET_BYTES])


def tell_length(packet: bytearray) -> None:
    """Make the IP header say the true length, so that what else is wrong is looked at, too."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        packet[2:4] = min(len(packet), MAX_PACKET_BYTES).to_bytes(2, "big")
    elif len(packet) >= 40 and packet[0] >> 4 == 6:
        packet[4:6] = min(len(packet) - 40, 0xFFFF).to_bytes(2, "big")


def hostile_super_packet(rng: random.Random) -> SuperPacket:
    """Any bytes with any segment size; half of them nearly sound."""
    sound = random_super_packet(rng)
    size = rng.choice((*SIZES, sound.segment_size, sound.segment_size, rng.randrange(0x10000)))
    if rng.random() < 0.1:
        return SuperPacket(rng.randbytes(rng.randrange(MAX_PACKET_BYTES + 1)), size)
    return SuperPacket(sound.data if rng.random() < 0.2 else spoilt(rng, data_of(sound)), size)


def virtio_header(rng: random.Random, packet: bytes, size: int) -> bytes:
    """A header that a device might give with a packet, and half of the time does not fit it."""
    found = headers(packet)
    start, field, length, kind = 20, 16, 40, rng.choice(GSO_TYPES)
    if found is not None and found.protocol:
        start, length = found.transport_at, found.payload_at
        field = 16 if found.protocol == TCP else 6
        if rng.random() < 0.8:
            kind = {TCP: 1 if packet[0] >> 4 == 4 else 4, UDP: 5}[found.protocol]
    sound = bytearray(struct.pack("=BBHHHH", 1, kind, length, size & 0xFFFF, start, field))
    if rng.random() < 0.5:
        sound[rng.randrange(10)] = rng.choice((0, 1, 2, 3, 0x80, 0xFF, rng.randrange(256)))
    return bytes(sound) if rng.random() < 0.95 else rng.randbytes(rng.randrange(11))


def data_of(packet: Packet) -> bytes:
    """The bytes of a packet, a super-packet's uncut."""
    return bytes(packet.data) if isinstance(packet, SuperPacket) else packet


def segments_of(packet: Packet) -> list[bytes]:
    """What the kernel would see of a packet."""
    return packet.segments() if isinstance(packet, SuperPacket) else [packet]
