"""Records: what is planned and unpacked is what was handed in, and nothing else."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import inner_packet, sealed_record
from super_packets import batches, one_by_one, segments_of, super_packet

from holloway.protocols import records
from holloway.protocols.coalescing import Checksums, coalesce
from holloway.protocols.errors import LocalError
from holloway.protocols.packets import (
    IPV6_HEADER_BYTES,
    Packet,
    SuperPacket,
    UnfinishedPacket,
    transport,
)
from holloway.protocols.record_wire import (
    MAX_DATAGRAMS,
    MAX_PLAINTEXT_BYTES,
    MAX_SEALED_BYTES,
    Record,
    RecordKind,
    join_run,
    open_record,
)
from holloway.protocols.records import capacity, packets_of, plan, super_packets_of
from holloway.protocols.virtio import OffloadedPacket, offloaded

KEY, RECEIVER, ROOM = bytes(range(32)), 0x2222_0002, 1420
CIPHER = AESGCM(KEY)
ALL = 0xFF
hostile = settings(deadline=None, max_examples=200, derandomize=True)
modest = settings(deadline=None, max_examples=40, derandomize=True)


def unpack(kind: int, plaintext: bytes, datagrams: int) -> list[Packet] | None:
    """What a device gets of one record alone."""
    if kind == RecordKind.SUPER_PACKETS:
        supers = super_packets_of(plaintext, datagrams)
        return None if supers is None else list(supers)
    packets = packets_of(plaintext, datagrams)
    if packets is None:
        return None
    return coalesce(packets, Checksums.GOOD) if kind == RecordKind.UNFINISHED else list(packets)


def carried(records: list[Record], *, first: int = 0) -> list[Record]:
    """The records after they have been over the wire."""
    arrived = []
    for counter, record in enumerate(records, first):
        datagrams = sealed_record(CIPHER, RECEIVER, counter, record)
        assert len(datagrams) == record.datagrams
        sealed = join_run(b"".join(datagrams), 0, len(datagrams[0]))
        assert sealed is not None
        plaintext = open_record(CIPHER.decrypt, record.kind, counter, len(datagrams), sealed)
        assert plaintext is not None
        arrived.append(Record(record.kind, plaintext, len(datagrams)))
    return arrived


@modest
@given(batch=batches(), room=st.sampled_from([1100, 1280, 1420, 8900]), datagrams=st.sampled_from([1, 2, 3, 8, 44, 64]))
def test_without_loss_every_packet_comes_out_as_it_would_have_been_sent_one_by_one(
    batch: list[Packet], room: int, datagrams: int
) -> None:
    records, refused = plan(batch, room, datagrams)
    assert not refused
    expected = [segment for packet in batch for segment in segments_of(packet)]
    assert [packet for record in carried(records) for packet in one_by_one(record)] == expected
    unpacked = [packet for record in records for packet in unpack(*record) or ()]
    assert Counter(s for packet in unpacked for s in segments_of(packet)) == Counter(expected)
    longest = max((len(segment) for segment in expected), default=0)
    for record in records:
        assert record.datagrams <= max(datagrams, -(-(longest + 18) // (room + 16)))
        sizes = {len(d) for d in sealed_record(CIPHER, RECEIVER, 1, record)}
        assert len(sizes) == 1
        assert sizes.pop() <= room + 32


def test_a_super_packet_in_one_record_comes_out_ready_for_a_device() -> None:
    for version in (4, 6):
        for tcp in (True, False):
            packet = super_packet(60_000, 1200, version=version, tcp=tcp)
            records, _ = plan([packet], ROOM, 64)
            assert unpack(*records[0]) == [offloaded(packet)]


def test_lone_packets_with_unfinished_checksums_share_a_datagram_and_are_finished_by_the_kernel() -> None:
    acks = [super_packet(0, 0xFFFE, serial=n, flags=0x10) for n in range(10)]
    records, _ = plan(acks, ROOM, 1)
    assert [(record.kind, record.datagrams) for record in records] == [(RecordKind.UNFINISHED, 1)]
    opened = unpack(*records[0])
    assert opened is not None
    assert all(isinstance(packet, OffloadedPacket) and packet.virtio[0] == 1 for packet in opened)
    assert [s for packet in opened for s in segments_of(packet)] == [s for ack in acks for s in ack.segments()]


def test_neighbouring_super_packets_share_a_record_while_they_fit() -> None:
    supers = [super_packet(4000, 1368, serial=n) for n in range(10)]
    records, _ = plan(supers, ROOM, 64)
    assert [record.datagrams for record in records] == [29]
    records, _ = plan(supers, ROOM, 8)
    assert [len(unpack(*record) or ()) for record in records] == [2] * 5


def test_parts_of_a_super_packet_have_nearly_one_length_so_that_they_leave_by_one_call() -> None:
    records, _ = plan([super_packet(64_296, 1368)], ROOM, 8)
    lengths = [len(sealed_record(CIPHER, RECEIVER, n, record)[0]) for n, record in enumerate(records)]
    assert [record.datagrams for record in records] == [8] * 5 + [7]
    assert len(set(lengths)) == 2
    records, _ = plan([super_packet(25 * 1368, 1368)], ROOM, 8)
    assert [len(packet.segments()) for r in records for packet in super_packets_of(r.plaintext, 8) or ()] == [
        7,
        7,
        7,
        4,
    ]


@pytest.mark.parametrize(
    ("room", "size", "payload", "datagrams"),
    [
        (1420, 1368, 3 * 1368, [1] * 5),  # every segment alone
        (1420, 1200, 3 * 1200, [1] * 5),
        (1420, 100, 3 * 100, [1] * 3),  # one super-packet
        (150, 40, 5 * 40, [1] * 4),  # two and two as super-packets, the last with the packet after it
        (1300, 1368, 3 * 1368, [1, 2, 2, 2, 1]),  # each longer than a datagram
    ],
)
def test_segments_keep_their_order_between_other_packets(
    room: int, size: int, payload: int, datagrams: list[int]
) -> None:
    acks = [super_packet(0, 0xFFFE, serial=serial, flags=0x10) for serial in (1, 2)]
    batch: list[Packet] = [acks[0], super_packet(payload, size), acks[1]]
    records, _ = plan(batch, room, 1)
    assert [packet for record in records for packet in one_by_one(record)] == [
        segment for packet in batch for segment in segments_of(packet)
    ]
    assert [record.datagrams for record in records] == datagrams


def test_an_ip_checksum_that_comes_to_zero_is_zero() -> None:
    data = bytearray(super_packet(50, 100).data)
    data[4:6] = bytes(2)
    data[4:6] = (-int.from_bytes(data[:20], "big") % 0xFFFF).to_bytes(2, "big")
    packet = SuperPacket(bytes(data), 100)
    (record,), _ = plan([packet], ROOM, 1)
    assert one_by_one(record) == packet.segments()
    assert record.plaintext[10:12] == bytes(2)


def test_what_records_cannot_carry_is_refused_and_counted_and_harms_no_other() -> None:
    good = inner_packet(0, 100)
    not_ip = SuperPacket(b"junk" * 30, 10)
    other = SuperPacket(inner_packet(1, 100)[:9] + b"\x01" + inner_packet(1, 100)[10:], 10)
    no_size = SuperPacket(super_packet(100, 10).data, 0)
    short = bytearray(super_packet(100, 10).data)
    short[32] = 0x40
    beyond = bytearray(super_packet(0, 10, options=0).data)
    beyond[32] = 0xF0
    many = super_packet(60_000, 7)
    batch: list[Packet] = [
        good,
        not_ip,
        other,
        no_size,
        SuperPacket(bytes(short), 10),
        SuperPacket(bytes(beyond), 10),
        many,
        good,
    ]
    records, refused = plan(batch, ROOM, 4)
    assert refused == 6
    assert [record.plaintext for record in records] == [good + good]
    records, refused = plan([good, bytes(65_535), good], 100, 64)
    assert refused == 1
    assert [record.plaintext for record in records] == [good, good]


def test_a_packet_longer_than_a_datagram_is_spread_even_when_records_are_of_one() -> None:
    packet = inner_packet(0, 1420)
    (record,), _ = plan([packet], 1200, 1)
    assert record.datagrams == 2
    assert carried([record])[0].plaintext == record.plaintext
    assert unpack(*record) == [packet]


def test_numbers_that_make_no_records_are_the_callers_mistake() -> None:
    for room, datagrams in ((0, 1), (ROOM, 0), (ROOM, 65)):
        with pytest.raises(LocalError):
            plan([], room, datagrams)


def test_a_record_has_at_most_64_datagrams_and_the_longest_packet() -> None:
    assert capacity(ROOM, 1) == ROOM
    assert capacity(ROOM, 64) == capacity(65_535, 64) == MAX_PLAINTEXT_BYTES
    records, _ = plan([inner_packet(n, 1400) for n in range(300)], ROOM, 64)
    assert max(record.datagrams for record in records) <= MAX_DATAGRAMS
    assert max(len(record.plaintext) + 16 for record in records) <= MAX_SEALED_BYTES


def test_an_empty_packet_is_a_keepalive_and_no_packets_are_no_records() -> None:
    (record,), _ = plan([b""], ROOM, 8)
    (datagram,) = sealed_record(CIPHER, RECEIVER, 0, record)
    assert len(datagram) == 32
    assert unpack(*record) == []
    assert plan([], ROOM, 8) == ([], 0)


@hostile
@given(kind=st.sampled_from([1, 2, 3]), plaintext=st.binary(max_size=200), datagrams=st.integers(1, 64))
def test_no_plaintext_raises(kind: int, plaintext: bytes, datagrams: int) -> None:
    packets = unpack(kind, plaintext, datagrams)
    assert packets is None or sum(len(p.data) if isinstance(p, SuperPacket) else len(p) for p in packets) <= len(
        plaintext
    )


@hostile
@given(data=st.data())
def test_spoilt_records_raise_nothing_and_bring_at_most_what_they_hold(data: st.DataObject) -> None:
    batch = data.draw(
        st.sampled_from(
            [
                [super_packet(900, 100), super_packet(300, 100, tcp=False, version=6)],
                [super_packet(40, 100), super_packet(40, 100, serial=1)],
            ]
        )
    )
    (record,), _ = plan(batch, 400, 8)
    spoilt = bytearray(record.plaintext)
    for at in data.draw(st.lists(st.integers(0, len(spoilt) - 1), max_size=4)):
        spoilt[at] = data.draw(st.integers(0, ALL))
    del spoilt[data.draw(st.integers(0, len(spoilt))) :]
    packets = unpack(record.kind, bytes(spoilt), record.datagrams)
    for packet in packets or ():
        inner = packet.data if isinstance(packet, SuperPacket) else packet
        found = transport(inner)
        start = IPV6_HEADER_BYTES if found is None else found[1]
        # Checksums and lengths are made here; payload is not.
        assert inner[start + 20 :] in bytes(spoilt)
        segments_of(packet)


def test_padding_is_zeros_and_fewer_bytes_than_the_record_has_datagrams() -> None:
    packet, large = inner_packet(0, 100), super_packet(3000, 1368)
    prefixed = struct.pack("<H", 1368) + large.data
    for kind, plaintext in (
        (RecordKind.PACKETS, packet),
        (RecordKind.UNFINISHED, packet),
        (RecordKind.SUPER_PACKETS, prefixed),
    ):
        assert unpack(kind, plaintext + bytes(7), 8) == unpack(kind, plaintext, 1)
        assert unpack(kind, plaintext, 1)
        for padding, datagrams in ((bytes(8), 8), (b"\0", 1), (b"\0\1", 8), (b"\1\0", 8), (b"\0\0\1", 8)):
            assert unpack(kind, plaintext + padding, datagrams) is None


def test_a_super_packet_that_is_none_makes_its_record_malformed() -> None:
    lone, icmp = super_packet(50, 100).data, inner_packet(0, 100)
    unsplittable = icmp[:9] + b"\x01" + icmp[10:]
    for size, data in ((100, lone), (50, lone), (10, unsplittable), (1, super_packet(9000, 1).data)):
        assert super_packets_of(struct.pack("<H", size) + data, 1) is None
    assert super_packets_of(b"", 1) == []


def test_a_super_packet_that_a_device_would_refuse_is_left_to_be_cut_by_us() -> None:
    packet = super_packet(2000, 10, tcp=False)
    opened = (super_packets_of(struct.pack("<H", 10) + packet.data, 1) or [])[0]
    assert type(opened) is SuperPacket
    assert opened.segments() == packet.segments()


# What is usual is judged by a shorter look; it must see what the long one sees.


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_the_short_look_at_a_record_sees_what_the_long_one_sees(data: st.DataObject) -> None:
    packet = super_packet(
        data.draw(st.integers(1, 20_000)), data.draw(st.integers(1, 1500)), tcp=data.draw(st.booleans()), serial=7
    )
    ready = offloaded(packet)
    whole = data.draw(st.sampled_from([bytes(packet.data), bytes(ready.data) if ready else b""]))
    padding = data.draw(st.integers(0, 3))
    plaintext = bytearray(struct.pack("<H", packet.segment_size) + whole + bytes(padding))
    for _ in range(data.draw(st.integers(0, 2))):
        plaintext[data.draw(st.integers(0, min(len(plaintext), 70) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        plaintext = plaintext[: data.draw(st.integers(0, len(plaintext)))]
    datagrams = data.draw(st.integers(1, 4))
    found = []
    for is_short in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not is_short:
                patch.setattr(records, "only_plain_tcp", lambda plaintext, datagrams: None)
            packets = super_packets_of(bytes(plaintext), datagrams)
            found.append(packets and [(bytes(each.data), each, type(each), each.layout) for each in packets])
            if packets:
                found[-1] += [each.virtio for each in packets if isinstance(each, OffloadedPacket)]
    assert found[0] == found[1]


def test_a_bulk_flow_takes_the_short_look() -> None:
    ready = offloaded(super_packet(20_000, 1300, serial=1))
    assert ready is not None
    plaintext = struct.pack("<H", ready.segment_size) + bytes(ready.data)
    assert records.only_plain_tcp(plaintext, 1) == ready
    assert records.only_plain_tcp(plaintext + b"\0", 2) == ready
    assert records.only_plain_tcp(plaintext + b"\0", 1) is None


def test_packets_whose_checksum_nobody_made_are_never_among_others() -> None:
    unfinished, whole = UnfinishedPacket(inner_packet(1)), inner_packet(2)
    made, _ = plan([whole, unfinished, unfinished, whole, whole, unfinished], ROOM, 8)
    assert [(record.kind, record.plaintext) for record in made] == [
        (RecordKind.PACKETS, whole),
        (RecordKind.UNFINISHED, bytes(unfinished) * 2),
        (RecordKind.PACKETS, whole * 2),
        (RecordKind.UNFINISHED, bytes(unfinished)),
    ]


@pytest.mark.parametrize("length", [0, 1, 19])
def test_a_packet_that_says_it_is_shorter_than_its_header_makes_its_record_malformed(length: int) -> None:
    short = bytes([0x45, 0, 0, length]).ljust(20, b"\0")  # what is left of it could pass for padding
    assert packets_of(inner_packet(2) + short, 64) is None
