"""Echo messages, compared with scapy's byte for byte."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy_oracle import (
    ICMP,
    IP,
    UDP,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPOption,
    IPv6,
    IPv6ExtHdrDestOpt,
    PadN,
    Raw,
    ScapyPacket,
    with_fresh_checksums,
)

from holloway.protocols.errors import LocalError
from holloway.protocols.icmp import EchoReply, answer_echo, echo_request, parse_echo_reply
from holloway.protocols.packets import destination, source

FOUR = (IPv4Address("10.0.0.1").packed, IPv4Address("10.0.0.2").packed)
SIX = (IPv6Address("fd00::1").packed, IPv6Address("fd00::2").packed)
U16 = st.integers(0, 0xFFFF)


def scapy_ip(src: bytes, dst: bytes, **fields: Any) -> ScapyPacket:
    if len(src) == 4:
        return IP(src=str(IPv4Address(src)), dst=str(IPv4Address(dst)), **{"id": 0, "flags": "DF", "ttl": 64, **fields})
    return IPv6(src=str(IPv6Address(src)), dst=str(IPv6Address(dst)), **{"hlim": 64, **fields})


def scapy_echo(family: int, reply: bool, identifier: int, sequence: int, payload: bytes) -> ScapyPacket:
    message: ScapyPacket
    if family == 4:
        message = ICMP(type=0 if reply else 8, id=identifier, seq=sequence)
    else:
        message = (ICMPv6EchoReply if reply else ICMPv6EchoRequest)(id=identifier, seq=sequence)
    return message / Raw(payload) if payload else message


@pytest.mark.parametrize("ends", [FOUR, SIX], ids=["ipv4", "ipv6"])
@settings(max_examples=50)
@given(identifier=U16, sequence=U16, payload=st.binary(max_size=100))
def test_request_and_answer_are_scapys_and_the_answer_parses(
    ends: tuple[bytes, bytes], identifier: int, sequence: int, payload: bytes
) -> None:
    here, there = ends
    request = echo_request(here, there, identifier, sequence, payload)
    fields = (identifier, sequence, payload)
    assert request == bytes(scapy_ip(here, there) / scapy_echo(len(here), False, *fields))
    answer = answer_echo(request)
    assert answer == bytes(scapy_ip(there, here) / scapy_echo(len(here), True, *fields))
    assert parse_echo_reply(answer) == EchoReply(there, *fields)
    assert parse_echo_reply(memoryview(answer)) == EchoReply(there, *fields)
    assert answer_echo(memoryview(request)) == answer


@pytest.mark.parametrize("ends", [FOUR, SIX], ids=["ipv4", "ipv6"])
def test_a_request_is_no_reply_and_a_reply_gets_no_answer(ends: tuple[bytes, bytes]) -> None:
    request = echo_request(*ends, 1, 2)
    answer = answer_echo(request)
    assert answer is not None
    assert parse_echo_reply(request) is None
    assert answer_echo(answer) is None


@pytest.mark.parametrize("ends", [FOUR, SIX], ids=["ipv4", "ipv6"])
def test_the_longest_ping_fits_and_one_byte_more_is_misuse(ends: tuple[bytes, bytes]) -> None:
    room = 65_535 - 8 - (20 if len(ends[0]) == 4 else 40)
    request = echo_request(*ends, 1, 2, bytes(room))
    assert len(request) == 65_535
    assert with_fresh_checksums(request) == request
    assert answer_echo(request) is not None
    with pytest.raises(LocalError, match="do not fit"):
        echo_request(*ends, 1, 2, bytes(room + 1))


@pytest.mark.parametrize(
    ("src", "dst", "identifier", "sequence"),
    [
        (FOUR[0], SIX[0], 1, 1),
        (SIX[0], FOUR[0], 1, 1),
        (b"", b"", 1, 1),
        (bytes(5), bytes(5), 1, 1),
        (*FOUR, -1, 1),
        (*FOUR, 65_536, 1),
        (*SIX, 1, -1),
        (*SIX, 1, 65_536),
    ],
)
def test_addresses_of_two_families_or_numbers_beyond_16_bits_are_misuse(
    src: bytes, dst: bytes, identifier: int, sequence: int
) -> None:
    with pytest.raises(LocalError, match="no echo request"):
        echo_request(src, dst, identifier, sequence)


def test_options_and_extension_headers_before_the_message_are_walked_over() -> None:
    four = scapy_ip(*FOUR, options=[IPOption(b"\x94\x04\x00\x00")]) / scapy_echo(4, True, 3, 4, b"x")
    six = scapy_ip(*SIX) / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]) / scapy_echo(6, True, 3, 4, b"x")
    assert parse_echo_reply(bytes(four)) == EchoReply(FOUR[0], 3, 4, b"x")
    assert parse_echo_reply(bytes(six)) == EchoReply(SIX[0], 3, 4, b"x")
    request = scapy_ip(*FOUR, options=[IPOption(b"\x94\x04\x00\x00")]) / scapy_echo(4, False, 3, 4, b"x")
    assert answer_echo(bytes(request)) == bytes(scapy_ip(FOUR[1], FOUR[0]) / scapy_echo(4, True, 3, 4, b"x"))


@pytest.mark.parametrize("ends", [FOUR, SIX], ids=["ipv4", "ipv6"])
def test_no_flipped_bit_goes_unseen_where_a_checksum_covers_it(ends: tuple[bytes, bytes]) -> None:
    request = echo_request(*ends, 0x1234, 7, b"payload")
    answer = answer_echo(request)
    assert answer is not None
    whole = parse_echo_reply(answer)
    # IPv6 has no checksum of its own: traffic class, flow label and hop limit are covered by nothing.
    uncovered = {*range(4, 32), *range(56, 64)} if len(ends[0]) == 16 else set()
    for bit in range(len(answer) * 8):
        flipped = bytearray(answer)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        assert parse_echo_reply(bytes(flipped)) == (whole if bit in uncovered else None)
        flipped = bytearray(request)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        assert answer_echo(bytes(flipped)) == (answer if bit in uncovered else None)


NO_HOST_V4 = ["0.0.0.0", "224.0.0.1", "239.1.2.3", "255.255.255.255"]
NO_HOST_V6 = ["::", "ff02::1", "ff05::2"]


@pytest.mark.parametrize("other", NO_HOST_V4 + NO_HOST_V6)
def test_nothing_is_answered_to_or_from_an_address_that_is_not_one_hosts(other: str) -> None:
    is_six = ":" in other
    crowd = IPv6Address(other).packed if is_six else IPv4Address(other).packed
    here = SIX[0] if is_six else FOUR[0]
    assert answer_echo(echo_request(crowd, here, 1, 1)) is None
    assert answer_echo(echo_request(here, crowd, 1, 1)) is None
    assert answer_echo(echo_request(here, here, 1, 1)) is not None


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(scapy_ip(*FOUR) / UDP() / Raw(bytes(20))),
        bytes(scapy_ip(*FOUR, proto=58) / Raw(bytes(scapy_echo(4, True, 1, 1, b"")))),
        bytes(scapy_ip(*FOUR, proto=1) / Raw(bytes(7))),
        bytes(scapy_ip(*SIX, nh=1) / Raw(bytes(scapy_echo(4, True, 1, 1, b"")))),
        bytes(scapy_ip(*FOUR) / ICMP(type=0, code=1)),
        bytes(scapy_ip(*FOUR) / ICMP(type=8, code=1)),
        bytes(scapy_ip(*FOUR) / ICMP(type=11)),
        bytes(scapy_ip(*SIX) / ICMPv6EchoReply(code=1)),
        bytes(scapy_ip(*FOUR, flags="MF") / scapy_echo(4, True, 1, 1, b"12345678")),
        bytes(scapy_ip(*FOUR) / scapy_echo(4, True, 1, 1, b"")) + b"\0",
        bytes(scapy_ip(*FOUR) / scapy_echo(4, True, 1, 1, b"abc"))[:-1],
    ],
)
def test_what_is_not_exactly_one_echo_message_is_none(packet: bytes) -> None:
    assert parse_echo_reply(packet) is None
    assert answer_echo(packet) is None


@given(st.one_of(st.binary(max_size=100), st.binary(max_size=60).map(lambda tail: bytes([0x45, 0, 0, 20]) + tail)))
def test_random_bytes_are_no_echo(data: bytes) -> None:
    assert parse_echo_reply(data) is None
    assert answer_echo(data) is None


@given(st.integers(0, 47), st.integers(0, 255), st.booleans())
def test_a_damaged_request_is_answered_to_its_sender_or_not_at_all(at: int, value: int, is_six: bool) -> None:
    data = bytearray(echo_request(*(SIX if is_six else FOUR), 1, 1, bytes(20)))
    data[at] = value
    answer = answer_echo(bytes(data))
    assert answer is None or (source(answer), destination(answer)) == (destination(data), source(data))
