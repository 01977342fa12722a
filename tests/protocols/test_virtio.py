"""The header of a device with offloads: its bytes, what a read stands for, and what is ready to be written."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy_oracle import (
    ICMP,
    IP,
    TCP,
    UDP,
    ICMPv6EchoRequest,
    IPOption,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    Raw,
    ScapyPacket,
    with_fresh_checksums,
)

from holloway.protocols.errors import LocalError
from holloway.protocols.packets import SuperPacket
from holloway.protocols.virtio import (
    MAX_SEGMENT_BYTES,
    MAX_UDP_SEGMENTS,
    PLAIN,
    VIRTIO_HEADER_BYTES,
    GsoType,
    OffloadedPacket,
    VirtioHeader,
    from_device,
    offloaded,
    parse,
)

quick = settings(max_examples=120, derandomize=True, deadline=None)
U16 = st.integers(0, 0xFFFF)
HEADERS = st.builds(
    VirtioHeader, st.sampled_from(GsoType), U16, U16, st.booleans(), U16, U16, st.booleans(), st.booleans()
)
V4, V6 = IP(src="10.0.0.1", dst="10.0.0.2", id=9), IPv6(src="fd00::1", dst="fd00::2")
OPTIONS = IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption(b"\x94\x04\x00\x00")])
CHAIN = V6 / IPv6ExtHdrHopByHop()
BODY = Raw(bytes(range(250)) * 4)


def u16(number: int) -> bytes:
    return number.to_bytes(2, sys.byteorder)


@quick
@given(HEADERS, st.binary(max_size=30))
def test_parse_is_the_inverse_of_encode(header: VirtioHeader, after: bytes) -> None:
    assert len(header.encode()) == VIRTIO_HEADER_BYTES
    assert parse(header.encode() + after) == header


@quick
@given(st.one_of(st.binary(max_size=12), st.builds(bytes.__add__, HEADERS.map(VirtioHeader.encode), st.binary())))
def test_what_parse_takes_encode_gives_back(data: bytes) -> None:
    header = parse(data)
    assert header is None or header.encode() == data[:VIRTIO_HEADER_BYTES]
    assert len(data) >= VIRTIO_HEADER_BYTES or header is None


def test_bytes_are_those_of_the_kernels_struct() -> None:
    assert bytes(10) == PLAIN
    header = VirtioHeader(GsoType.TCPV6, 0x0102, 0x0304, True, 0x0506, 0x0708, has_ecn=True)
    assert header.encode() == b"\x01\x84" + u16(0x0102) + u16(0x0304) + u16(0x0506) + u16(0x0708)
    assert VirtioHeader(GsoType.TCPV4, is_checksum_valid=True).encode()[:2] == b"\x02\x01"
    assert VirtioHeader(GsoType.UDP_L4).encode()[:2] == b"\x00\x05"
    assert parse(memoryview(header.encode())) == header


@pytest.mark.parametrize(
    "first", [b"\x04\x00", b"\x08\x01", b"\x01\x03", b"\x00\x02", b"\x01\x11", b"\x01\x41", b"\xff\xff"]
)
def test_unknown_flags_and_types_are_not_guessed_at(first: bytes) -> None:
    """UFO and the flags for tunnels and for accurate ECN among them: what they mean is not what the rest says."""
    assert parse(first + bytes(8)) is None
    assert from_device(first + bytes(8) + bytes(V4 / UDP() / BODY)) is None


@pytest.mark.parametrize("number", [-1, 0x10000])
def test_a_number_beyond_16_bits_is_misuse(number: int) -> None:
    headers = [
        VirtioHeader(header_bytes=number),
        VirtioHeader(segment_size=number),
        VirtioHeader(checksum_start=number),
        VirtioHeader(checksum_offset=number),
    ]
    for header in headers:
        with pytest.raises(LocalError, match="16 bits"):
            header.encode()


SHAPES = [
    (V4 / TCP(flags="PA") / BODY, GsoType.TCPV4, 20, 40, 16),
    (V6 / TCP(flags="PA", options=[("Timestamp", (1, 2))]) / BODY, GsoType.TCPV6, 40, 72, 16),
    (OPTIONS / TCP() / BODY, GsoType.TCPV4, 24, 44, 16),
    (CHAIN / TCP() / BODY, GsoType.TCPV6, 48, 68, 16),
    (V4 / UDP() / BODY, GsoType.UDP_L4, 20, 28, 6),
    (V6 / UDP() / BODY, GsoType.UDP_L4, 40, 48, 6),
    (CHAIN / UDP() / BODY, GsoType.UDP_L4, 48, 56, 6),
]


@pytest.mark.parametrize(("packet", "gso", "start", "header_bytes", "offset"), SHAPES)
def test_a_super_packet_is_made_ready_for_a_device(
    packet: ScapyPacket, gso: GsoType, start: int, header_bytes: int, offset: int
) -> None:
    data = bytes(packet)
    spoilt = data[: start + offset] + b"\xde\xad" + data[start + offset + 2 :]
    ready = offloaded(SuperPacket(spoilt, 300))
    assert ready is not None
    assert parse(ready.virtio) == VirtioHeader(gso, header_bytes, 300, True, start, offset)
    assert ready.segments() == SuperPacket(data, 300).segments()
    lone = offloaded(SuperPacket(spoilt, 1000))
    assert lone is not None
    assert parse(lone.virtio) == VirtioHeader(GsoType.NONE, header_bytes, 0, True, start, offset)
    assert lone.segments() == [data]
    # The kernel finishes a checksum by summing from its start to the end; done for another protocol, the code is ours.
    assert lone.data == ready.data != data
    assert from_device(ready.virtio + ready.data) == SuperPacket(ready.data, 300)
    assert from_device(lone.virtio + lone.data) == SuperPacket(ready.data, MAX_SEGMENT_BYTES)


def test_lengths_and_sums_in_the_headers_of_a_ready_packet_are_right_though_they_came_wrong() -> None:
    data = bytearray(bytes(V4 / UDP() / BODY))
    data[10:12], data[24:28] = b"\x12\x34", b"\0\0\0\0"
    ready = offloaded(SuperPacket(bytes(data), 500))
    assert ready is not None
    assert ready.data[:26] == bytes(V4 / UDP() / BODY)[:26]


REFUSED = [
    (b"", 100),
    (bytes(V4 / TCP() / BODY)[:-1], 100),
    (bytes(IP(flags=1) / TCP() / BODY), 100),
    (bytes(V6 / IPv6ExtHdrFragment() / UDP() / BODY), 100),
    (bytes(V4 / ICMP() / BODY), 100),
    (bytes(IP(proto=6) / Raw(bytes(12) + b"\x40" + bytes(9))), 100),
    (bytes(IP(proto=6) / Raw(bytes(12) + b"\xf0" + bytes(9))), 100),
    (bytes(IP(proto=6) / Raw(bytes(9))), 100),
    (bytes(IP(proto=17) / Raw(bytes(7))), 100),
    (bytes(V4 / TCP() / BODY), 0),
    (bytes(V4 / TCP() / BODY), -3),
    (bytes(V4 / UDP() / Raw(bytes(MAX_UDP_SEGMENTS * 4 + 1))), 4),
    (bytes(V4 / TCP() / Raw(bytes(8193))), 1),
]


@pytest.mark.parametrize(("data", "size"), REFUSED)
def test_what_a_device_would_refuse_is_not_made_ready(data: bytes, size: int) -> None:
    assert offloaded(SuperPacket(data, size)) is None


def test_as_many_segments_as_a_device_takes_are_made_ready() -> None:
    assert offloaded(SuperPacket(bytes(V4 / UDP() / Raw(bytes(MAX_UDP_SEGMENTS * 4))), 4)) is not None
    assert offloaded(SuperPacket(bytes(V4 / TCP() / Raw(bytes(8192))), 1)) is not None


def read(header: VirtioHeader, packet: ScapyPacket | bytes) -> object:
    return from_device(header.encode() + bytes(packet))


def test_a_plain_read_is_a_packet_whatever_it_holds() -> None:
    assert read(VirtioHeader(), V4 / ICMP()) == bytes(V4 / ICMP())
    assert read(VirtioHeader(is_checksum_valid=True), V4 / UDP()) == bytes(V4 / UDP())
    assert read(VirtioHeader(), b"?") == b"?"
    assert from_device(bytes(9)) is None


def test_an_unfinished_checksum_of_another_protocol_is_finished() -> None:
    whole = bytes(V6 / ICMPv6EchoRequest(id=1, seq=2, data=b"abcd"))
    pseudo = bytes(V6 / UDP(len=12))  # for the addresses; 58 and the length are added below
    total = sum(int.from_bytes(pseudo[n : n + 2], "big") for n in range(8, 40, 2)) + 58 + len(whole) - 40
    partial = (total % 0xFFFF).to_bytes(2, "big")
    header = VirtioHeader(needs_checksum=True, checksum_start=40, checksum_offset=2)
    assert read(header, whole[:42] + partial + whole[44:]) == whole == with_fresh_checksums(whole)
    for start, offset in ((40, 11), (0xFFFF, 0xFFFF), (52, 0)):
        assert read(VirtioHeader(needs_checksum=True, checksum_start=start, checksum_offset=offset), whole) is None
    assert read(VirtioHeader(GsoType.TCPV6, 0, 9, True, 40, 2), whole) is None


def test_a_checksum_that_comes_out_as_zero_is_written_as_65535() -> None:
    packet = bytes(IP(proto=99) / Raw(b"\xff\xff\0\0"))
    header = VirtioHeader(needs_checksum=True, checksum_start=20, checksum_offset=2)
    assert read(header, packet) == packet[:-2] + b"\xff\xff"


@pytest.mark.parametrize(
    ("header", "packet"),
    [
        (VirtioHeader(GsoType.TCPV4, 40, 300, True, 20, 6), V4 / TCP() / BODY),
        (VirtioHeader(GsoType.TCPV4, 40, 300, True, 24, 16), V4 / TCP() / BODY),
        (VirtioHeader(GsoType.TCPV6, 40, 300, True, 20, 16), V4 / TCP() / BODY),
        (VirtioHeader(GsoType.TCPV4, 60, 300, True, 40, 16), V6 / TCP() / BODY),
        (VirtioHeader(GsoType.UDP_L4, 40, 300, True, 20, 16), V4 / TCP() / BODY),
        (VirtioHeader(GsoType.TCPV4, 28, 300, True, 20, 6), V4 / UDP() / BODY),
        (VirtioHeader(GsoType.TCPV4, 40, 0, True, 20, 16), V4 / TCP() / BODY),
        (VirtioHeader(GsoType.UDP_L4, 28, 0, True, 20, 6), V4 / UDP() / BODY),
        (VirtioHeader(GsoType.NONE, 0, 0, True, 20, 6), V4 / TCP() / BODY),
        (VirtioHeader(GsoType.TCPV4, 40, 300), bytes(V4 / TCP() / BODY)[:-1]),
        (VirtioHeader(GsoType.TCPV4, 40, 300), V4 / ICMP() / BODY),
        (VirtioHeader(GsoType.TCPV4, 40, 300), IP(proto=6) / Raw(bytes(12) + b"\xf0" + bytes(9))),
    ],
)
def test_a_read_that_contradicts_itself_is_nothing(header: VirtioHeader, packet: ScapyPacket) -> None:
    assert read(header, packet) is None


def test_a_super_packet_whose_checksum_is_whole_is_one_too() -> None:
    data = bytes(V4 / TCP() / BODY)
    assert read(VirtioHeader(GsoType.TCPV4, 40, 300), data) == SuperPacket(data, 300)


WHOLE = [bytes(shape[0]) for shape in SHAPES] + [bytes(V4 / ICMP() / BODY)]


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.one_of(HEADERS.map(VirtioHeader.encode), st.binary(min_size=10, max_size=10)),
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), max_size=3),
    st.integers(-1, 1200),
)
def test_hostile_bytes_raise_nothing_and_grow_into_nothing(
    virtio: bytes, data: bytes, hits: list[tuple[int, int]], size: int
) -> None:
    spoilt = bytearray(data)
    for at, value in hits:
        spoilt[at] = value
    packet = bytes(spoilt)
    got = from_device(virtio + packet)
    if isinstance(got, SuperPacket):
        assert got.data == packet
        assert got.segment_size > 0
    elif got is not None:
        assert len(got) == len(packet)
        assert sum(a != b for a, b in zip(got, packet, strict=True)) <= 2
    ready = offloaded(SuperPacket(packet, size))
    if ready is not None:
        assert isinstance(ready, OffloadedPacket)
        assert len(ready.data) == len(packet)
        assert ready.segments() == SuperPacket(packet, size).segments() != []
