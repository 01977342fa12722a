"""Delivery: the order of packets, who judges them, and what is counted."""

from __future__ import annotations

from super_packets import segments_of, super_packet

from holloway.protocols.addresses import Address
from holloway.protocols.delivery import Delivery
from holloway.protocols.events import DropReason, PacketDropped
from holloway.protocols.journal import Journal
from holloway.protocols.packets import IPV6_HEADER_BYTES, Packet, SuperPacket, source, whole_packets
from holloway.protocols.record_wire import Record, RecordKind
from holloway.protocols.records import packets_of, plan, super_packets_of

HERE: Address = ("192.0.2.7", 1099)
BAD_IPV4 = b"\n\0\0\x66"


def inspect(packet: bytes) -> DropReason | None:
    return DropReason.SOURCE_NOT_ALLOWED if source(packet) in (BAD_IPV4, None) else None


def delivery() -> tuple[Delivery, Journal]:
    journal = Journal()
    return Delivery(inspect, journal), journal


def opened(record: Record) -> list[Packet]:
    if record.kind is RecordKind.SUPER_PACKETS:
        return list(super_packets_of(record.plaintext, record.datagrams) or ())
    return list(packets_of(record.plaintext, record.datagrams) or ())


def forged(packet: SuperPacket) -> SuperPacket:
    return SuperPacket(packet.data[:12] + BAD_IPV4 + packet.data[16:], packet.segment_size)


def test_unfinished_packets_of_several_records_are_joined_and_keep_their_place() -> None:
    inside, journal = delivery()
    bulk, ack = super_packet(20 * 1368, 1368), super_packet(0, 0xFFFE, serial=1, flags=0x10)
    plain = ack.segments()[0]
    good = inside.add(RecordKind.PACKETS, (plain,), HERE)
    records, _ = plan([bulk], 1420, 1)
    assert {record.kind for record in records} == {RecordKind.UNFINISHED}
    for record in records:
        good += inside.add(record.kind, opened(record), HERE)
    good += inside.add(RecordKind.PACKETS, (plain,), HERE)
    packets = inside.take()
    assert len(packets) < 6, "twenty packets were joined"
    assert (packets[0], packets[-1]) == (plain, plain)
    assert whole_packets(packets) == [plain, *bulk.segments(), plain]
    assert good == 22
    assert inside.take() == []
    assert journal.drops == {}


def test_unfinished_packets_at_the_end_are_joined_when_they_are_taken() -> None:
    inside, _ = delivery()
    bulk = super_packet(3 * 1368, 1368, tcp=False, version=6)
    for record in plan([bulk], 1420, 1)[0]:
        inside.add(record.kind, opened(record), HERE)
    (packet,) = inside.take()
    assert segments_of(packet) == bulk.segments()


def test_every_packet_is_judged_and_one_that_is_refused_harms_no_other() -> None:
    inside, journal = delivery()
    good, bad = super_packet(100, 200).segments()[0], forged(super_packet(100, 200)).segments()[0]
    assert inside.add(RecordKind.PACKETS, (good, bad, good, b""), HERE) == 2
    assert inside.add(RecordKind.UNFINISHED, (bad,), HERE) == 0
    assert whole_packets(inside.take()) == [good, good]
    assert journal.drops == {DropReason.SOURCE_NOT_ALLOWED: 3}
    assert set(journal.events) == {PacketDropped(DropReason.SOURCE_NOT_ALLOWED, HERE)}


def test_a_super_packet_is_judged_by_its_headers_and_counts_as_what_it_stands_for() -> None:
    journal = Journal()
    seen: list[bytes] = []

    def note(packet: bytes) -> DropReason | None:
        seen.append(packet)
        return inspect(packet)

    inside = Delivery(note, journal)
    good = super_packet(4 * 1368, 1368, version=6)
    bad = forged(super_packet(7 * 1368, 1368))
    assert inside.add(RecordKind.SUPER_PACKETS, (good, bad), HERE) == 4
    assert seen == [packet.data[:IPV6_HEADER_BYTES] for packet in (good, bad)]
    assert inside.take() == [good]
    assert journal.drops == {DropReason.SOURCE_NOT_ALLOWED: 7}


def test_a_packet_of_our_own_comes_after_what_arrived_before_it() -> None:
    inside, _ = delivery()
    early, late = (super_packet(100, 200, serial=serial).segments()[0] for serial in (0, 1))
    inside.add(RecordKind.UNFINISHED, (early,), HERE)
    inside.add_own(b"ours")
    inside.add(RecordKind.UNFINISHED, (late,), HERE)
    assert whole_packets(inside.take()) == [early, b"ours", late]
    assert inside.take() == []
