"""ICMP answers to packets that are too long, compared with scapy's byte for byte."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6PacketTooBig
from scapy_oracle import (
    ICMP,
    IP,
    TCP,
    UDP,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPOption,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
    ScapyPacket,
)

from holloway.protocols.too_big import MIN_MTU_IPV4, MIN_MTU_IPV6, too_big

HERE = {4: IPv4Address("10.0.0.254").packed, 6: IPv6Address("fd00::fe").packed}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
LOAD = Raw(bytes(range(256)) * 6)


def four(src: str = "10.0.0.1", dst: str = "10.0.0.2", flags: str = "DF", frag: int = 0, **fields: Any) -> ScapyPacket:
    return IP(src=src, dst=dst, flags=flags, frag=frag, **fields)


def six(src: str = "fd00::1", dst: str = "fd00::2") -> ScapyPacket:
    return IPv6(src=src, dst=dst)


def packet_of(family: int, load: int = 1400) -> bytes:
    return bytes((four() if family == 4 else six()) / UDP(sport=1, dport=2) / Raw(bytes(load)))


def scapys_answer(packet: bytes, mtu: int) -> bytes:
    """The answer as scapy makes it and sums it."""
    if packet[0] >> 4 == 4:
        here, there = str(IPv4Address(HERE[4])), str(IPv4Address(packet[12:16]))
        outer = IP(src=here, dst=there, id=0, flags="DF", ttl=64, tos=0xC0)
        return bytes(outer / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(packet[:548]))
    here, there = str(IPv6Address(HERE[6])), str(IPv6Address(packet[8:24]))
    return bytes(IPv6(src=here, dst=there, hlim=64) / ICMPv6PacketTooBig(mtu=mtu) / Raw(packet[:1232]))


@FAMILIES
@given(mtu=st.integers(0, 2000), load=st.integers(0, 3000))
def test_the_answer_is_scapys_and_comes_only_when_the_packet_exceeds_what_it_names(
    family: int, mtu: int, load: int
) -> None:
    packet = packet_of(family, load)
    named = max(mtu, MIN_MTU_IPV4 if family == 4 else MIN_MTU_IPV6)
    answer = too_big(packet, mtu, HERE[family])
    if len(packet) <= named:
        assert answer is None
    else:
        assert answer == scapys_answer(packet, named)


@FAMILIES
def test_the_quote_is_as_long_as_an_answer_may_be(family: int) -> None:
    packet = packet_of(family, 9000)
    answer = too_big(packet, 1400, HERE[family])
    assert answer is not None
    assert len(answer) == (576 if family == 4 else 1280)
    assert packet.startswith(answer[28 if family == 4 else 48 :])


def test_a_packet_just_above_the_least_mtu_is_quoted_whole_or_as_far_as_allowed() -> None:
    packet = packet_of(4, MIN_MTU_IPV4 + 1 - 28)
    answer = too_big(packet, 0, HERE[4])
    assert answer is not None
    assert answer[28:] == packet[:548]
    assert answer[26:28] == MIN_MTU_IPV4.to_bytes(2, "big")


@FAMILIES
def test_an_answer_gets_no_answer(family: int) -> None:
    answer = too_big(packet_of(family), 1300, HERE[family])
    assert answer is not None
    assert too_big(answer, 0, HERE[family]) is None
    # However long it is, which a right one never is.
    size = len(answer) + 1400
    long = bytearray(answer + bytes(1400))
    at, length = (2, size) if family == 4 else (4, size - 40)
    long[at : at + 2] = length.to_bytes(2, "big")
    assert too_big(bytes(long), 1300, HERE[family]) is None
    long[20 if family == 4 else 40] = 8 if family == 4 else 128
    assert too_big(bytes(long), 1300, HERE[family]) is not None


@pytest.mark.parametrize("kind", range(256))
def test_icmp_errors_get_no_answer_and_all_else_does(kind: int) -> None:
    errors_of_four = (3, 4, 5, 11, 12)
    ping = bytearray(bytes(four() / ICMP(type=8) / LOAD))
    ping[20] = kind
    assert (too_big(bytes(ping), 1300, HERE[4]) is None) == (kind in errors_of_four)
    ping = bytearray(bytes(six() / ICMPv6EchoRequest() / LOAD))
    ping[40] = kind
    assert (too_big(bytes(ping), 1300, HERE[6]) is None) == (kind < 128 or kind == 137)


@pytest.mark.parametrize(
    "layers",
    [
        four() / TCP() / LOAD,
        four(flags="MF+DF") / UDP() / LOAD,
        four(options=[IPOption(b"\x94\x04\0\0")]) / ICMP(type=8) / LOAD,
        six() / TCP() / LOAD,
        six() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(addresses=[]) / UDP() / LOAD,
        six() / IPv6ExtHdrFragment(offset=0, m=1) / UDP() / LOAD,
        six() / IPv6ExtHdrFragment(offset=0, m=1) / ICMPv6EchoReply() / LOAD,
    ],
)
def test_what_may_be_answered_is_answered(layers: ScapyPacket) -> None:
    packet = bytes(layers)
    assert too_big(packet, 1300, HERE[4 if packet[0] >> 4 == 4 else 6]) == scapys_answer(packet, 1300)


@pytest.mark.parametrize(
    "layers",
    [
        four(flags="") / TCP() / LOAD,  # may be fragmented
        four(frag=1) / LOAD,
        four(frag=0x1FFF) / LOAD,
        four(options=[IPOption(b"\x94\x04\0\0")]) / ICMP(type=11) / LOAD,
        six() / IPv6ExtHdrFragment(offset=1, m=0) / LOAD,
        six() / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(offset=0x1FFF, m=1) / LOAD,
        six() / IPv6ExtHdrDestOpt(nh=58) / Raw(b"\1") / LOAD,  # an ICMPv6 error behind an extension header
        six() / IPv6ExtHdrFragment(offset=0, m=1, nh=58) / Raw(b"\1") / LOAD,
    ],
)
def test_what_may_not_be_answered_is_not(layers: ScapyPacket) -> None:
    packet = bytes(layers)
    assert too_big(packet, 1300, HERE[4 if packet[0] >> 4 == 4 else 6]) is None


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_only_hosts_are_answered_and_only_about_packets_to_hosts(address: str) -> None:
    family = ip_address(address).version
    other = "10.0.0.1" if family == 4 else "fd00::1"
    for src, dst in ((address, other), (other, address)):
        layers = four(src, dst) if family == 4 else six(src, dst)
        assert too_big(bytes(layers / UDP() / LOAD), 1300, HERE[family]) is None


@pytest.mark.parametrize("address", ["1.0.0.1", "126.255.255.255", "128.0.0.1", "223.255.255.255", "::2", "fe80::1"])
def test_addresses_next_to_those_are_hosts(address: str) -> None:
    family = ip_address(address).version
    layers = four(src=address) if family == 4 else six(src=address)
    answer = too_big(bytes(layers / UDP() / LOAD), 1300, HERE[family])
    assert answer is not None
    assert ip_address(answer[16:20] if family == 4 else answer[24:40]) == ip_address(address)


@FAMILIES
def test_an_answer_is_of_the_packets_family(family: int) -> None:
    assert too_big(packet_of(family), 1300, HERE[10 - family]) is None
    assert too_big(packet_of(family), 1300, b"") is None


@FAMILIES
def test_packets_that_are_not_as_long_as_they_say_get_no_answer(family: int) -> None:
    packet = packet_of(family)
    assert too_big(packet, 1300, HERE[family]) is not None
    for wrong in (packet + b"\0", packet[:-1], b"", packet[:19], b"\x55" + packet[1:], b"\x44" + packet[1:]):
        assert too_big(wrong, 1300, HERE[family]) is None


def test_ipv6_headers_that_cannot_be_read_get_no_answer() -> None:
    nine = six()
    for _ in range(9):
        nine = nine / IPv6ExtHdrDestOpt()
    assert too_big(bytes(nine / UDP() / LOAD), 1300, HERE[6]) is None
    plain = bytearray(packet_of(6, 1400))
    plain[6] = 60  # the UDP header is read as an extension header of 2048 bytes
    plain[41] = 255
    for following in (17, 58, 60):
        plain[40] = following
        assert too_big(bytes(plain), 1300, HERE[6]) is None


@settings(max_examples=400)
@given(data=st.data())
def test_hostile_bytes_never_raise_and_each_answer_is_right(data: st.DataObject) -> None:
    family = data.draw(st.sampled_from([4, 6]))
    packet = bytearray(packet_of(family))
    for _ in range(data.draw(st.integers(1, 6))):
        packet[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    mtu = data.draw(st.integers(MIN_MTU_IPV6, 1427))
    answer = too_big(bytes(packet), mtu, HERE[family])
    if answer is not None:
        assert answer == scapys_answer(bytes(packet), mtu)
        assert too_big(answer, 0, HERE[family]) is None


@given(st.binary(max_size=120))
def test_noise_never_raises(noise: bytes) -> None:
    assert too_big(noise, 0, HERE[4]) is None
