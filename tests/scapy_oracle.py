"""scapy as the independent judge of IP packets. Not responsible for making our packets, only for scapy's own."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # scapy's warnings about its own surroundings are not ours to fail on.
    warnings.simplefilter("ignore")
    from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
    from scapy.layers.inet6 import (
        ICMPv6EchoReply,
        ICMPv6EchoRequest,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
        PadN,
    )
    from scapy.packet import Packet as ScapyPacket
    from scapy.packet import Raw

__all__ = [
    "ICMP",
    "IP",
    "TCP",
    "UDP",
    "ICMPv6EchoReply",
    "ICMPv6EchoRequest",
    "IPOption",
    "IPv6",
    "IPv6ExtHdrDestOpt",
    "IPv6ExtHdrFragment",
    "IPv6ExtHdrHopByHop",
    "IPv6ExtHdrRouting",
    "PadN",
    "Raw",
    "ScapyPacket",
    "parsed",
    "with_fresh_checksums",
]


def parsed(packet: bytes) -> ScapyPacket:
    """An IP packet as scapy reads it."""
    return IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)


def with_fresh_checksums(packet: bytes) -> bytes:
    """The same packet with every length and checksum computed by scapy."""
    layers = parsed(packet)
    layer = layers
    while layer:
        for field in ("chksum", "cksum", "len", "plen"):
            if field in layer.fields:
                delattr(layer, field)
        layer = layer.payload
    return bytes(layers)
