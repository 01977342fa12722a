"""Rows of like UDP packets: what they stand for is what they were, and what is not alike is no row."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holloway.protocols.checksums import partial_checksum, pseudo_header_sum
from holloway.protocols.datagram_rows import (
    MAX_PAYLOAD_BYTES,
    MAX_ROW_PACKETS,
    MIN_PAYLOAD_BYTES,
    RowShape,
    rows_by_flow,
    shape_of,
    super_packet,
)
from holloway.protocols.packets import PROTOCOL_UDP, SuperPacket, UnfinishedPacket, internet_checksum
from holloway.protocols.virtio import MAX_UDP_SEGMENTS, VIRTIO_HEADER_BYTES, from_device, parse

PARTIAL = {4: struct.pack("=BBHHHH", 1, 0, 0, 0, 20, 6), 6: struct.pack("=BBHHHH", 1, 0, 0, 0, 40, 6)}
AT = {4: 20, 6: 40}
V6 = [socket.inet_pton(socket.AF_INET6, each) for each in ("fd09::1", "fd09::2")]


def packet(version: int, payload: bytes, number: int = 0, *, bits: int = 0x4000, port: int = 4000) -> bytes:
    """A datagram as a device with checksum offload gives it, without its virtio header."""
    length = 8 + len(payload)
    if version == 4:
        head = struct.pack(">BBHHHBBH4s4s", 0x45, 8, 20 + length, number, bits, 63, 17, 0, b"\n\t\0\1", b"\n\t\0\2")
        head = head[:10] + internet_checksum(head).to_bytes(2, "big") + head[12:]
    else:
        head = struct.pack(">IHBB16s16s", 6 << 28 | 77, length, 17, 63, *V6)
    checksum = partial_checksum(pseudo_header_sum(head, PROTOCOL_UDP, length))
    return head + struct.pack(">HHHH", 4001, port, length, checksum) + payload


def row(packets: Sequence[bytes], version: int = 4) -> tuple[RowShape, bytearray, bytes]:
    """What reading them leaves."""
    shape = shape_of(packets[0])
    assert shape is not None
    cut = AT[version] + 8
    heads = bytearray(b"".join(PARTIAL[version] + each[:cut] for each in packets))
    return shape, heads, b"".join(each[cut:] for each in packets)


def without_number(whole: bytes) -> bytes:
    """A packet of IPv4 without its identification and the checksum that covers it; it must be right."""
    if whole[0] >> 4 == 6:
        return whole
    assert not internet_checksum(whole[:20])
    return whole[:4] + whole[6:10] + whole[12:]


@given(
    version=st.sampled_from((4, 6)),
    size=st.integers(MIN_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES),
    numbers=st.lists(st.integers(0, 0xFFFF), min_size=2, max_size=MAX_ROW_PACKETS),
    seed=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=60)
def test_row_stands_for_the_packets_it_was_made_of(version: int, size: int, numbers: list[int], seed: object) -> None:
    payloads = [seed.randbytes(size) for _ in numbers]  # type: ignore[attr-defined]
    packets = [packet(version, each, number) for each, number in zip(payloads, numbers, strict=True)]
    shape, heads, behind = row(packets, version)
    assert shape.read_bytes == VIRTIO_HEADER_BYTES + len(packets[0])
    made = super_packet(shape, heads, behind)
    assert made is not None
    assert made.layout == SuperPacket(made.data, made.segment_size).layout
    carried = [without_number(each) for each in made.segments()]
    assert carried == [without_number(UnfinishedPacket(each).finished()) for each in packets]
    assert made.segments()[0] == UnfinishedPacket(packets[0]).finished()
    # The device's own header says the same of it.
    header = parse(made.virtio)
    assert header is not None
    assert header.segment_size == size
    assert header.needs_checksum
    again = from_device(made.virtio + made.data)
    assert isinstance(again, SuperPacket)
    assert again.segments() == made.segments()


@pytest.mark.parametrize("version", [4, 6])
def test_packet_that_differs_in_any_byte_of_its_headers_is_no_part_of_a_row(version: int) -> None:
    shape, heads, behind = row([packet(version, bytes([each]) * 64, each) for each in range(5)], version)
    assert super_packet(shape, heads, behind) is not None
    for which in (0, 1, 4):
        for at in range(shape.head_bytes):
            for bit in (0x01, 0x80):
                changed = bytearray(heads)
                changed[which * shape.head_bytes + at] ^= bit
                assert super_packet(shape, changed, behind) is None, (which, at)


@given(
    numbers=st.lists(st.integers(0, 0xFFFF), min_size=2, max_size=8),
    which=st.integers(0, 7),
    wrong=st.sampled_from((1, 0x0100, 0x0101, 0x1111, 0xFE01, 0xFEFE, 0xFFFE)) | st.integers(1, 0xFFFE),
)
@settings(deadline=None)
def test_wrong_checksum_of_ipv4_is_not_put_right(numbers: list[int], which: int, wrong: int) -> None:
    shape, heads, behind = row([packet(4, bytes(64), number) for number in numbers])
    assert super_packet(shape, heads, behind) is not None
    at = which % len(numbers) * shape.head_bytes + VIRTIO_HEADER_BYTES + 10
    heads[at : at + 2] = ((int.from_bytes(heads[at : at + 2], "big") + wrong) % 0xFFFF).to_bytes(2, "big")
    assert super_packet(shape, heads, behind) is None


@pytest.mark.parametrize("version", [4, 6])
def test_row_whose_packets_are_all_wrong_in_the_same_way_is_none(version: int) -> None:
    shape, heads, behind = row([packet(version, bytes(64), 7)] * 4, version)
    carried = VIRTIO_HEADER_BYTES + 1, *range(VIRTIO_HEADER_BYTES + AT[version], VIRTIO_HEADER_BYTES + AT[version] + 4)
    for at in range(shape.head_bytes):
        changed = bytearray(heads)
        for which in range(4):
            changed[which * shape.head_bytes + at] ^= 0x01
        made = super_packet(shape, changed, behind)
        if made is not None:  # then it is another row, which is as whole as this one
            whole = UnfinishedPacket(bytes(changed[VIRTIO_HEADER_BYTES : shape.head_bytes]) + bytes(64)).finished()
            assert version == 6 or at in carried or at >= shape.head_bytes - 2
            assert [without_number(each) for each in made.segments()] == [without_number(made.segments()[0])] * 4
            assert made.segments()[0][: AT[version]] == whole[: AT[version]]


@given(version=st.sampled_from((4, 6)), ports=st.lists(st.integers(1, 4), min_size=2, max_size=MAX_ROW_PACKETS))
@settings(deadline=None, max_examples=60)
def test_flows_that_take_turns_are_parted_and_stay_in_order(version: int, ports: list[int]) -> None:
    packets = [packet(version, b"%64d" % each, each, port=port) for each, port in enumerate(ports)]
    parted = rows_by_flow(*row(packets, version), 3)
    if parted is None:
        assert 3 * len(set(ports)) > len(ports)
        return
    rows, left = parted
    assert left == [each for each, port in enumerate(ports) if ports.count(port) < 3]
    whole = [UnfinishedPacket(each).finished() for each in packets]
    carried = [each.segments() for each in rows]
    assert [[without_number(each) for each in flow] for flow in carried] == [
        [without_number(whole[each]) for each, its in enumerate(ports) if its == port]
        for port in dict.fromkeys(ports)
        if ports.count(port) >= 3
    ]


@pytest.mark.parametrize("version", [4, 6])
def test_nothing_is_parted_when_one_is_not_like_the_others_of_its_flow_or_of_no_flow(version: int) -> None:
    packets = [packet(version, bytes(64), each, port=1 + each % 2) for each in range(16)]
    packets.append(packet(version, bytes(64), 99, port=3))
    shape, heads, behind = row(packets, version)
    assert rows_by_flow(shape, heads, behind, 3) is not None
    ports = range(VIRTIO_HEADER_BYTES + AT[version], VIRTIO_HEADER_BYTES + AT[version] + 4)
    addresses = range(ports.start - (8 if version == 4 else 32), ports.start)
    for which in (0, 5, 16):
        for at in range(shape.head_bytes):
            changed = bytearray(heads)
            changed[which * shape.head_bytes + at] ^= 0x01
            parted = rows_by_flow(shape, changed, behind, 3)
            if at in ports or at in addresses:  # of another flow then, perhaps one that there is
                assert parted is not None
                assert sum(each.count for each in parted[0]) + len(parted[1]) == 17
                assert version == 6 or at in ports or which in parted[1]
            elif which < 16:
                assert parted is None, at


def test_datagrams_that_may_be_fragmented_or_are_fragments_are_in_no_row() -> None:
    for bits in (0x0000, 0x2000, 0x6000, 0x4001):
        assert shape_of(packet(4, bytes(64), 7, bits=bits)) is None
        shape, heads, behind = row([packet(4, bytes(64), 7)] * 4)
        _, other, _ = row([packet(4, bytes(64), 7)] * 4)
        for which in range(4):
            head = bytearray(packet(4, bytes(64), 7, bits=bits)[:28])
            other[which * shape.head_bytes + VIRTIO_HEADER_BYTES : (which + 1) * shape.head_bytes] = head
        assert super_packet(shape, heads, behind) is not None
        assert super_packet(shape, other, behind) is None


def test_row_without_udp_checksums_is_none() -> None:
    shape, heads, behind = row([packet(4, bytes(64), 7)] * 4)
    for which in range(4):
        end = (which + 1) * shape.head_bytes
        heads[end - 2 : end] = b"\0\0"
    assert super_packet(shape, heads, behind) is None


def test_only_short_udp_has_a_shape() -> None:
    assert shape_of(packet(4, bytes(MIN_PAYLOAD_BYTES))) == RowShape(20, MIN_PAYLOAD_BYTES)
    assert shape_of(packet(6, bytes(MAX_PAYLOAD_BYTES), 0)) == RowShape(40, MAX_PAYLOAD_BYTES)
    tcp = bytearray(packet(4, bytes(64)))
    tcp[9] = 6
    for other in (packet(4, bytes(MIN_PAYLOAD_BYTES - 1)), packet(6, bytes(MAX_PAYLOAD_BYTES + 1)), bytes(tcp), b""):
        assert shape_of(other) is None
    assert MAX_ROW_PACKETS <= MAX_UDP_SEGMENTS


@given(
    at=st.sampled_from((20, 40)),
    size=st.integers(MIN_PAYLOAD_BYTES, 80),
    count=st.integers(2, 6),
    head=st.binary(min_size=58, max_size=58),
)
@settings(deadline=None)
def test_no_bytes_raise(at: int, size: int, count: int, head: bytes) -> None:
    shape = RowShape(at, size)
    heads = bytearray(head[: shape.head_bytes] * count)
    heads[:VIRTIO_HEADER_BYTES] = PARTIAL[4 if at == 20 else 6]
    assert super_packet(shape, heads, bytes(size * count)) is None


@given(data=st.binary(max_size=80))
def test_no_packet_raises(data: bytes) -> None:
    shape = shape_of(data)
    assert shape is None or shape.read_bytes == VIRTIO_HEADER_BYTES + len(data)
