"""The key slot of the `aes-gcm` suite: records over datagrams in runs, alone, late, doubled, lost and forged."""

from __future__ import annotations

import random
import struct
from collections import Counter
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import inner_packet, runs_of, sealed, sealed_record
from super_packets import batches, super_packet

from holloway.protocols import record_keys
from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival, lone
from holloway.protocols.delivery import Delivery
from holloway.protocols.errors import KeyExhausted
from holloway.protocols.events import DropReason
from holloway.protocols.journal import Journal
from holloway.protocols.noise import DerivedKeys
from holloway.protocols.packets import Packet, SuperPacket, whole_packets
from holloway.protocols.reassembly import HORIZON, LIFETIME_S, MAX_BYTES
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_size import REPORT_LIFETIME_S, REPORT_S, WORTH_REPORTING, LossMeter, Report
from holloway.protocols.record_wire import (
    HEADER_BYTES,
    SPREAD_BITS,
    Record,
    RecordKind,
    first_counter,
    parse_head,
)
from holloway.protocols.replay import WINDOW_SIZE
from holloway.protocols.runs import flatten
from holloway.protocols.suites import AES_GCM, Suite
from holloway.protocols.transport import Opened

FORTH, BACK = bytes(range(32)), bytes(range(32, 64))
FIRST = first_counter(FORTH)
ROOM = 1420
OUR_INDEX = 0x2222_0002
HOME: Address = ("192.0.2.7", 1099)
ELSEWHERE: Address = ("192.0.2.8", 1099)
modest = settings(deadline=None, max_examples=60, derandomize=True)


class End(RecordKeys):
    """One end of a session's key, with its journal and what came out of it."""

    def __init__(self, *, is_sender: bool, suite: Suite = AES_GCM) -> None:
        self.journal = Journal()
        keys = (FORTH, BACK, 0x1111_0001, OUR_INDEX) if is_sender else (BACK, FORTH, OUR_INDEX, 0x1111_0001)
        super().__init__(
            suite,
            DerivedKeys(*keys, b"t" * 16),
            self.journal,
            is_initiator=is_sender,
            created_at=0.0,
            expires_at=180.0,
            epoch=1,
        )
        self.inside = Delivery(lambda packet: None, self.journal)
        self.records: list[Opened] = []

    @property
    def drops(self) -> Counter[DropReason]:
        return self.journal.drops

    def take(self, *arrivals: Arrival, home: Address | None = HOME, now: float = 0.0) -> list[bytes]:
        """What a kernel would see of what has arrived."""
        for arrival in arrivals:
            for record in self.open(arrival, home, now):
                self.records.append(record)
                self.inside.add(record.kind, record.packets, arrival.source)
        return whole_packets(self.inside.take())

    def take_alone(self, *datagrams: bytes, source: Address = HOME, now: float = 0.0) -> list[bytes]:
        return self.take(*(lone(datagram, source) for datagram in datagrams), now=now)


def ends(suite: Suite = AES_GCM, size: int = 1) -> tuple[End, End]:
    """A sender whose records may have `size` datagrams, and its receiver."""
    sender, receiver = End(is_sender=True, suite=suite), End(is_sender=False, suite=suite)
    sender._size._size, sender._size._heard_at = size, 0.0
    return sender, receiver


def run(*datagrams: bytes, source: Address = HOME, is_view: bool = False) -> Arrival:
    data = b"".join(datagrams)
    return Arrival(source, memoryview(bytearray(data)) if is_view else data, len(datagrams[0]))


def long_record(sender: End, serial: int = 0, count: int = 8) -> tuple[SuperPacket, list[bytes]]:
    """A super-packet, and the datagrams of the one record that it makes."""
    packet = super_packet(count * 1300, 1300, serial=serial)
    datagrams = sealed(sender, [packet], ROOM, 0.0)
    assert len(datagrams) == count
    assert {len(datagram) for datagram in datagrams} == {len(datagrams[0])}
    return packet, datagrams


# Super-packets.


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "udp"])
@pytest.mark.parametrize("size", [1, 8, 44, 64])
@pytest.mark.parametrize("form", ["bytes", "view", "alone", "backwards", "shuffled", "twice"])
def test_a_super_packet_survives_the_trip(version: int, tcp: bool, size: int, form: str) -> None:
    sender, receiver = ends(size=size)
    packet = super_packet(45_000, 1368, version=version, tcp=tcp)
    datagrams = sealed(sender, [packet], ROOM, 0.0)
    if form in ("bytes", "view"):
        arrivals = runs_of([(datagram, HOME) for datagram in datagrams])
        assert max(arrival.datagram_count for arrival in arrivals) >= min(size, 32)
        arrivals = arrivals if form == "view" else [arrival.kept() for arrival in arrivals]
        received = receiver.take(*arrivals)
    else:
        if form == "backwards":
            datagrams.reverse()
        elif form == "shuffled":
            random.Random(size).shuffle(datagrams)
        elif form == "twice":
            datagrams = [datagram for datagram in datagrams for _ in range(2)]
        received = receiver.take_alone(*datagrams)
    assert sorted(received) == sorted(packet.segments())
    if form not in ("backwards", "shuffled"):
        assert received == packet.segments()
    refused = receiver.drops[DropReason.PIECE_DOUBLE] + receiver.drops[DropReason.REPLAYED]
    assert refused == sum(receiver.drops.values()) == (len(datagrams) // 2 if form == "twice" else 0)
    assert receiver.next_expiry() is None


def test_a_packet_longer_than_a_datagram_is_spread_from_the_first_record_on() -> None:
    sender, receiver = ends()
    packet = inner_packet(0, 9000)
    datagrams = sealed(sender, [packet], ROOM, 0.0)
    assert len(datagrams) == 7
    assert max(map(len, datagrams)) <= ROOM + 32
    assert receiver.take(run(*datagrams)) == [packet]
    (record,) = receiver.records
    assert record.size == sum(map(len, datagrams))


def test_what_no_record_can_hold_is_dropped_and_counted_and_the_rest_is_sent() -> None:
    sender, receiver = ends()
    batch: list[Packet] = [inner_packet(0), SuperPacket(b"junk", 7), bytes(65_535), inner_packet(1)]
    assert receiver.take_alone(*sealed(sender, batch, 100, 0.0)) == [inner_packet(0), inner_packet(1)]
    assert sender.drops == {DropReason.MALFORMED: 2}
    assert sealed(sender, [SuperPacket(b"junk", 7)], 100, 0.0) == []


@modest
@given(
    batch=batches(),
    size=st.sampled_from([1, 2, 8, 44, 64]),
    room=st.sampled_from([1100, 1420]),
    seed=st.integers(0, 1 << 32),
    loss=st.sampled_from([0.0, 0.0, 0.01, 0.2]),
    double=st.sampled_from([0.0, 0.3]),
    shift=st.sampled_from([0, 0, 2, 100]),
    forged=st.sampled_from([0.0, 0.0, 0.02]),
    is_run=st.booleans(),
)
def test_whatever_becomes_of_datagrams_a_kernel_sees_nothing_but_what_was_sent_and_each_once(
    batch: list[Packet],
    size: int,
    room: int,
    seed: int,
    loss: float,
    double: float,
    shift: int,
    forged: float,
    is_run: bool,
) -> None:
    rng = random.Random(seed)
    sender, receiver = ends(size=size)
    datagrams = sealed(sender, batch, room, 0.0)
    schedule: list[tuple[float, bytes]] = []
    spoilt_total = 0
    for at, datagram in enumerate(datagrams):
        copies = (rng.random() >= loss) + (rng.random() < double)
        schedule += [(at + rng.uniform(0, shift), datagram) for _ in range(copies)]
        if rng.random() < forged:
            spoilt = bytearray(datagram)
            spoilt[rng.randrange(4, len(spoilt))] ^= 1 << rng.randrange(8)
            schedule.append((at + rng.uniform(-shift, shift), bytes(spoilt)))
            spoilt_total += 1
    schedule.sort(key=lambda entry: entry[0])
    arrived = [(datagram, HOME) for _, datagram in schedule]
    arrivals = runs_of(arrived) if is_run else [lone(*each) for each in arrived]
    received = receiver.take(*arrivals)
    sent = whole_packets(batch)
    assert not Counter(received) - Counter(sent)
    if not (loss or spoilt_total):
        assert Counter(received) == Counter(sent)
    if not shift:
        for flow in {flow_of(packet) for packet in sent}:
            there = [packet for packet in sent if flow_of(packet) == flow]
            positions = [there.index(packet) for packet in received if flow_of(packet) == flow]
            assert positions == sorted(positions), "a flow was reordered"
    # Every datagram is in a record that was opened, waits for the rest of its record, or was dropped and counted.
    in_records = sum(parts_of(record, room) for record in receiver.records)
    assert in_records + receiver._pieces.held_pieces + sum(receiver.drops.values()) == len(schedule)
    assert receiver._pieces.held_bytes <= MAX_BYTES


def parts_of(record: Opened, room: int) -> int:
    """The datagrams of a record by its size, where each is at most `room` and 32 bytes long."""
    return -(-record.size // (room + 32))


def flow_of(packet: bytes) -> bytes:
    """Addresses, protocol and ports."""
    if packet[0] >> 4 == 4:
        return packet[9:10] + packet[12:20] + (packet[20:24] if packet[9] != 253 else b"")
    return packet[6:7] + packet[8:44]


# Forgeries.


@pytest.mark.parametrize("which", range(8))
def test_a_forged_datagram_inside_a_run_costs_only_its_record(which: int) -> None:
    sender, receiver = ends(size=8)
    (before, first), (_, second), (after, third) = (long_record(sender, serial) for serial in range(3))
    second[which] = second[which][:-1] + bytes((second[which][-1] ^ 1,))
    received = receiver.take(run(*first, *second, *third))
    assert received == before.segments() + after.segments()
    assert receiver.drops == {DropReason.NOT_AUTHENTIC: 8}
    assert receiver.next_expiry() is None


def test_a_stray_datagram_inside_a_run_is_dropped_and_its_record_is_whole_with_the_one_that_it_displaced() -> None:
    sender, receiver = ends(size=8)
    packet, datagrams = long_record(sender)
    stray = datagrams[3][:8] + struct.pack("<Q", FIRST + 77 << SPREAD_BITS | 7) + bytes(len(datagrams[3]) - 16)
    assert receiver.take(run(*datagrams[:3], stray, *datagrams[4:])) == []
    assert receiver.drops == {}
    assert receiver.take_alone(datagrams[3]) == packet.segments()
    receiver.expire(LIFETIME_S)
    assert receiver.drops == {DropReason.PIECE_EXPIRED: 1}


def test_what_is_for_another_index_in_the_middle_of_a_run_is_counted_and_harms_nothing() -> None:
    sender, receiver = ends(size=8)
    packet, datagrams = long_record(sender)
    stranger = (0x3333_0003).to_bytes(4, "little") + datagrams[0][4:]
    assert receiver.take(run(stranger, stranger, *datagrams, stranger)) == packet.segments()
    assert receiver.drops == {DropReason.UNKNOWN_INDEX: 3}


def test_a_run_that_lost_a_datagram_is_made_whole_by_it() -> None:
    sender, receiver = ends(size=8)
    packet, datagrams = long_record(sender)
    assert receiver.take(run(*datagrams[:4], *datagrams[5:])) == []
    assert receiver._pieces.held_pieces == 7
    assert receiver.take_alone(datagrams[4], now=LIFETIME_S / 2) == packet.segments()
    assert receiver.drops == {}


def test_forged_pieces_before_a_record_cost_it_when_it_comes_in_pieces_and_not_when_it_comes_as_a_run() -> None:
    for is_run in (True, False):
        sender, receiver = ends(size=8)
        packet, datagrams = long_record(sender)
        forged = datagrams[3][:HEADER_BYTES] + bytes(len(datagrams[3]) - HEADER_BYTES)
        receiver.take_alone(forged)
        received = receiver.take(run(*datagrams)) if is_run else receiver.take_alone(*datagrams)
        assert received == (packet.segments() if is_run else [])
        if not is_run:
            # The true piece came second, so the forged one stood in its place, and the whole was not authentic.
            assert receiver.drops == {DropReason.PIECE_DOUBLE: 1, DropReason.NOT_AUTHENTIC: 8}
            assert receiver.top == -1


def test_lone_pieces_from_elsewhere_are_counted_and_a_run_from_elsewhere_is_opened() -> None:
    sender, receiver = ends(size=8)
    packet, datagrams = long_record(sender)
    assert receiver.take_alone(*datagrams, source=ELSEWHERE) == []
    assert receiver.drops == {DropReason.PIECE_FOREIGN_SOURCE: 8}
    assert receiver.take(run(*datagrams, source=ELSEWHERE)) == packet.segments()
    # With no home at all nothing is kept.
    _, more = long_record(sender, 1)
    assert receiver.take(*(lone(datagram, HOME) for datagram in more), home=None) == []
    assert receiver.drops == {DropReason.PIECE_FOREIGN_SOURCE: 16}
    assert receiver.next_expiry() is None


def test_a_forged_run_from_elsewhere_leaves_nothing_behind() -> None:
    sender, receiver = ends(size=8)
    _, datagrams = long_record(sender)
    forged = [datagram[:-1] + bytes((datagram[-1] ^ 1,)) for datagram in datagrams]
    assert receiver.take(run(*forged, source=ELSEWHERE)) == []
    assert receiver.drops == {DropReason.PIECE_FOREIGN_SOURCE: 8}
    assert (receiver.top, receiver.next_expiry()) == (-1, None)


def test_the_window_moves_for_whole_authentic_records_only() -> None:
    sender, receiver = ends(size=8)
    (_, first), (later, second) = long_record(sender), long_record(sender, 1)
    receiver.take_alone(*second[:7])
    forged = second[7][:-1] + b"\0"
    ahead = [datagram[:8] + struct.pack("<Q", FIRST + 5000 << SPREAD_BITS | 7) + datagram[16:] for datagram in first]
    receiver.take(run(*ahead))
    assert receiver.top == -1
    assert receiver.take_alone(second[7]) == later.segments()
    assert receiver.top == FIRST + 1
    receiver.take_alone(forged, *second)
    assert receiver.drops == {DropReason.NOT_AUTHENTIC: 8, DropReason.REPLAYED: 9}
    assert receiver.top == FIRST + 1


def test_a_record_opened_as_a_run_leaves_its_pieces_to_expire() -> None:
    sender, receiver = ends(size=8)
    packet, datagrams = long_record(sender)
    receiver.take_alone(*datagrams[:3])
    assert receiver.take(run(*datagrams)) == packet.segments()
    assert receiver.take_alone(*datagrams[3:]) == []
    assert receiver.next_expiry() == LIFETIME_S
    receiver.expire(LIFETIME_S)
    assert receiver.drops == {DropReason.REPLAYED: 5, DropReason.PIECE_EXPIRED: 3}
    assert receiver.next_expiry() is None


def test_pieces_are_forgotten_with_the_key() -> None:
    sender, receiver = ends(size=8)
    receiver.take_alone(*long_record(sender)[1][:5])
    receiver.forget()
    assert receiver.drops == {DropReason.PIECE_FORGOTTEN: 5}
    assert receiver.next_expiry() is None


@pytest.mark.parametrize("counter", [FIRST - 1, 0, FIRST + 10, (1 << 52) - 1])
@pytest.mark.parametrize("count", [1, 3])
def test_a_counter_outside_the_range_of_the_key_is_refused_though_authentic(counter: int, count: int) -> None:
    _, receiver = ends(replace(AES_GCM, reject_after_messages=10))
    record = Record(RecordKind.PACKETS, inner_packet(0, 3 * 100 - 16), count)
    datagrams = sealed_record(AESGCM(FORTH), OUR_INDEX, counter, record)
    assert receiver.take(run(*datagrams)) == receiver.take_alone(*datagrams) == []
    assert receiver.drops == {DropReason.NOT_AUTHENTIC: 2 * count}
    assert receiver.top == -1


def test_pieces_far_above_what_was_heard_are_not_kept() -> None:
    _, receiver = ends()
    for ahead in (HORIZON - 1, HORIZON):
        record = Record(RecordKind.PACKETS, inner_packet(0, 284), 3)
        receiver.take_alone(*sealed_record(AESGCM(FORTH), OUR_INDEX, FIRST + ahead, record)[:2])
    assert receiver.drops == {DropReason.PIECE_OUT_OF_RANGE: 2}
    assert receiver._pieces.held_pieces == 2


def test_a_record_behind_the_window_is_a_replay() -> None:
    sender, receiver = ends(size=8)
    _, late = long_record(sender)
    sender._take_counters(WINDOW_SIZE - 1)
    receiver.take_alone(*sealed(sender, [b""], ROOM, 0.0))
    assert receiver.take(run(*late)) == []
    assert receiver.drops == {DropReason.REPLAYED: 8}


def test_lengths_that_no_datagram_has_are_counted() -> None:
    sender, receiver = ends(size=8)
    packet, datagrams = long_record(sender)
    receiver.take(Arrival(HOME, bytes(31 * 5 + 1), 31), lone(b"", HOME), lone(bytes(31), HOME))
    assert receiver.drops == {DropReason.BAD_LENGTH: 8}
    # A run whose last datagram is cut short: too short for a header, for a piece, for a record.
    for rest, reason in ((16, DropReason.BAD_LENGTH), (17, None), (31, None)):
        receiver.drops.clear()
        receiver.take(run(*datagrams[:2], datagrams[2][:rest]))
        assert receiver.drops[DropReason.BAD_LENGTH] == (reason is DropReason.BAD_LENGTH)
        receiver.forget()
    receiver.drops.clear()
    (alone,) = sealed(sender, [inner_packet(0)], ROOM, 0.0)
    assert receiver.take(run(*datagrams, alone[:31])) == packet.segments()
    assert receiver.drops == {DropReason.BAD_LENGTH: 1}


def test_a_lone_record_in_the_middle_of_a_run_that_is_taken_apart_is_delivered() -> None:
    sender, receiver = ends(size=8)
    _, datagrams = long_record(sender)
    length = len(datagrams[0]) - 32
    packet = inner_packet(0, length)
    (alone,) = sealed(sender, [packet], ROOM, 0.0)
    (unknown,) = sealed_record(AESGCM(FORTH), OUR_INDEX, FIRST + 9, Record(RecordKind.PACKETS, packet, 1))
    unknown = unknown[:6] + b"\x63\0" + unknown[8:]
    assert receiver.take(run(datagrams[0], alone, unknown, *datagrams[3:])) == [packet]
    assert receiver.drops == {DropReason.MALFORMED: 1}
    assert receiver._pieces.held_pieces == 6


@modest
@given(data=st.data())
def test_no_bytes_raise_and_every_datagram_is_somewhere(data: st.DataObject) -> None:
    sender, receiver = ends(size=4)
    _, datagrams = long_record(sender, count=4)
    stride = len(datagrams[0])
    pool = [*datagrams, bytes(stride), b"\xff" * stride]
    for n in range(4):
        spoilt = bytearray(datagrams[n])
        for _ in range(data.draw(st.integers(0, 3))):
            spoilt[data.draw(st.integers(4, 17))] = data.draw(st.integers(0, 255))
        pool.append(bytes(spoilt))
    chosen = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=20))
    chosen[-1] = chosen[-1][: data.draw(st.integers(1, stride))]
    source = data.draw(st.sampled_from([HOME, ELSEWHERE]))
    arrival = run(*chosen, source=source, is_view=True) if len(chosen) > 1 else lone(chosen[0], source)
    receiver.take(arrival)
    opened = sum(-(-record.size // stride) for record in receiver.records)
    assert len(receiver.records) <= 1
    assert opened + receiver._pieces.held_pieces + sum(receiver.drops.values()) == len(chosen)


# What is authentic and makes no sense.


@pytest.mark.parametrize("kind", [RecordKind.PACKETS, RecordKind.UNFINISHED, RecordKind.SUPER_PACKETS])
def test_a_malformed_plaintext_is_counted_and_its_record_is_heard(kind: RecordKind) -> None:
    _, receiver = ends()
    datagrams = sealed_record(AESGCM(FORTH), OUR_INDEX, FIRST, Record(kind, b"not packets at all".ljust(284), 3))
    assert receiver.take(run(*datagrams)) == []
    assert receiver.drops == {DropReason.MALFORMED: 1}
    assert [(record.kind, record.packets, record.size) for record in receiver.records] == [(kind, (), 348)]
    assert receiver.top == FIRST
    assert receiver.take(run(*datagrams)) == []
    assert receiver.drops == {DropReason.MALFORMED: 1, DropReason.REPLAYED: 3}


# Reports and the size of records.


def converse(sender: End, receiver: End, now: float, datagrams: list[bytes]) -> None:
    """The receiver hears `datagrams`, and the sender its report."""
    receiver.take_alone(*datagrams, now=now)
    assert receiver.report_due_at == now + REPORT_S
    sender.take_alone(*flatten(receiver.seal_report(now + REPORT_S)), now=now + REPORT_S)


def widest(datagrams: list[bytes]) -> int:
    heads = [parse_head(datagram) for datagram in datagrams]
    return max(head.datagrams for head in heads if head is not None)


def test_records_grow_with_reports_fall_with_loss_and_begin_anew_after_a_silence() -> None:
    sender, receiver = ends()
    bulk: list[Packet] = [super_packet(60_000, 1368, serial=n) for n in range(4)]
    widths, now = [], 0.0
    for _ in range(9):
        datagrams = sealed(sender, bulk, ROOM, now)
        widths.append(sender._size.size(now))
        assert widths[-1] / 2 < widest(datagrams) <= widths[-1]
        converse(sender, receiver, now, datagrams)
        now += REPORT_S
    assert widths[:6] == [1, 2, 4, 8, 16, 32]
    assert 40 <= min(widths[6:]) <= max(widths[6:]) <= 45, "at 176 datagrams in 20 ms, 44 of them take 5 ms"
    datagrams = sealed(sender, bulk, ROOM, now)
    converse(sender, receiver, now, datagrams[1:])
    now += REPORT_S
    assert widest(sealed(sender, bulk, ROOM, now)) == 1
    sender, receiver = ends(size=64)
    assert widest(sealed(sender, bulk, ROOM, REPORT_LIFETIME_S - 0.001)) > 40
    assert widest(sealed(sender, bulk, ROOM, REPORT_LIFETIME_S)) == 1


def test_a_report_is_a_record_of_its_own_kind_and_carries_nothing_else() -> None:
    sender, receiver = ends()
    assert receiver.report_due_at is None
    datagrams = [sealed(sender, [inner_packet(n)], ROOM, 0.0)[0] for n in range(WORTH_REPORTING)]
    receiver.take_alone(*datagrams, now=1.0)
    assert receiver.report_due_at == 1.0 + REPORT_S
    (report,) = flatten(receiver.seal_report(1.0 + REPORT_S))
    assert receiver.report_due_at is None
    word = first_counter(BACK) << SPREAD_BITS
    assert report[:16] == struct.pack("<IHHQ", 0x1111_0001, 0, 4, word)
    assert report[16:] == AESGCM(BACK).encrypt(report[4:16], struct.pack("<IIII", 8, 8, 0, 0), None)
    assert sender.take_alone(report) == []
    assert [(record.kind, record.packets, record.size) for record in sender.records] == [(4, (), 48)]
    assert sender.records[0].plaintext == Report(8, 8, 0, 0).encode()
    assert sender.report_due_at is None, "a report is not answered"
    assert sender.drops == {}


def test_however_many_reports_come_at_once_they_are_not_answered() -> None:
    sender, receiver = ends()
    for _ in range(4 * WORTH_REPORTING):
        receiver.take_alone(*flatten(sender.seal_report(1.0)), now=1.0)
    assert len(receiver.records) == 4 * WORTH_REPORTING
    assert receiver.report_due_at is None
    receiver.take_alone(*[sealed(sender, [b""], ROOM, 1.0)[0] for _ in range(WORTH_REPORTING)], now=1.0)
    assert receiver.report_due_at == 1.0 + REPORT_S, "but keepalives are worth one"


def test_reports_that_lie_or_are_none_are_counted_and_change_nothing() -> None:
    sender, receiver = ends(size=8)
    long_record(sender)
    lies = [
        (b"", DropReason.REPORT_MALFORMED),
        (bytes(15), DropReason.REPORT_MALFORMED),
        (Report(2, 8, 0, 0).encode(), DropReason.REPORT_ABSURD),
        (Report(1, 9, 0, 0).encode(), DropReason.REPORT_ABSURD),
    ]
    for plaintext, reason in lies:
        before = sender.drops[reason]
        sender.take_alone(*receiver.seal_record(RecordKind.REPORT, plaintext).datagrams())
        assert sender.drops[reason] == before + 1
        assert sender._size.size(0.0) == 8
    assert len(sender.records) == 4, "whoever lies is heard all the same"
    # A report that another has overtaken is no drop.
    (late,) = receiver.seal_record(RecordKind.REPORT, Report(0, 0, 0, 0).encode()).datagrams()
    newer = Report(1, 8, 0, 0).encode()
    before_all = sum(sender.drops.values())
    sender.take_alone(*receiver.seal_record(RecordKind.REPORT, newer).datagrams(), late)
    assert sum(sender.drops.values()) == before_all


def test_kinds_that_are_no_packets_come_with_their_plaintext() -> None:
    sender, receiver = ends()
    (datagram,) = sender.seal_record(RecordKind.PROBE, b"p" * 3000).datagrams()
    assert len(datagram) == 3032
    assert receiver.take_alone(datagram) == []
    assert receiver.records == [Opened(RecordKind.PROBE, (), 3032, 1, b"p" * 3000)]
    assert receiver.drops == {}


# Limits.


def test_a_key_that_has_sealed_enough_bytes_is_worn_and_then_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_keys, "REKEY_AFTER_BYTES", 5000)
    monkeypatch.setattr(record_keys, "REJECT_AFTER_BYTES", 9000)
    sender, _ = ends(size=8)
    assert not sender.is_worn
    sealed(sender, [inner_packet(0, 1400)], ROOM, 0.0)
    sealed(sender, [inner_packet(n, 1000) for n in range(3)], ROOM, 0.0)
    assert not sender.is_worn
    sender.seal_record(RecordKind.PROBE, bytes(600))
    assert sender.is_worn
    assert sender.can_seal([b""])
    sealed(sender, [inner_packet(0, 4000)], ROOM, 0.0)
    assert not sender.can_seal([b""])


def test_a_key_is_worn_after_so_many_records_and_refuses_more_than_it_may_seal() -> None:
    sender, _ = ends(replace(AES_GCM, rekey_after_messages=3, reject_after_messages=5), size=8)
    packet, _ = long_record(sender)
    assert sender.sent == 1, "one counter is one record, whatever its length"
    assert not sender.is_worn
    sealed(sender, [b""], ROOM, 0.0)
    flatten(sender.seal_report(0.0))
    assert sender.is_worn
    # What might need more counters than there are is refused beforehand.
    assert not sender.can_seal([packet])
    assert sender.can_seal([b"", b""])
    sender._size._size = 1
    with pytest.raises(KeyExhausted):
        sealed(sender, [packet], ROOM, 0.0)
    assert sender.sent == 3


def test_repr_shows_no_key() -> None:
    assert repr(End(is_sender=True)) == "<End epoch 1 index 0x11110001 sent 0>"


# Records of one datagram each, in a row.


@modest
@given(data=st.data())
def test_a_run_of_short_records_is_as_good_as_its_datagrams_one_by_one(data: st.DataObject) -> None:
    sender, at_once = ends()
    singly = End(is_sender=False)
    now = 0.0
    for _ in range(3):
        heads = [(each, parse_head(each)) for each in sealed(sender, data.draw(batches()), ROOM, now)]
        pieces = [each for each, head in heads if head is not None and head.datagrams == 1]
        chosen = pieces
        if pieces and data.draw(st.booleans()):
            chosen = [pieces[number] for number in data.draw(st.lists(st.integers(0, len(pieces) - 1), max_size=70))]
        spoilt = data.draw(st.dictionaries(st.integers(0, 20), st.sampled_from([4, 6, 7, 10, 12, 16, -1]), max_size=3))
        datagrams = [spoilt_at(each, spoilt[n]) if n in spoilt else each for n, each in enumerate(chosen)]
        now += data.draw(st.sampled_from([0.0, 0.001, 0.03]))
        received = at_once.take(*runs_of([(each, HOME) for each in datagrams]), now=now)
        assert received == singly.take_alone(*datagrams, now=now)
        assert (at_once.drops, at_once.top, at_once.is_waiting) == (singly.drops, singly.top, singly.is_waiting)
        assert at_once.report_due_at == singly.report_due_at
        assert at_once._window._seen == singly._window._seen
        assert all(getattr(at_once._meter, each) == getattr(singly._meter, each) for each in LossMeter.__slots__)
        if at_once.report_due_at is not None and now >= at_once.report_due_at:
            assert at_once._meter.report(now) == singly._meter.report(now)


def spoilt_at(datagram: bytes, at: int) -> bytes:
    changed = bytearray(datagram)
    changed[at] ^= 1
    return bytes(changed)


def test_forged_datagrams_in_a_row_are_opened_once_each_and_cost_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    sender, receiver = ends()
    packets = [super_packet(1368, 1368, serial=serial).segments()[0] for serial in range(30)]
    datagrams = sealed(sender, packets, ROOM, 0.0)
    assert len(datagrams) == 30
    for number in (0, 7, 8, 29):
        datagrams[number] = spoilt_at(datagrams[number], -1)
    opened = 0

    class Counting:
        def __init__(self, cipher: object) -> None:
            self._cipher = cipher

        def decrypt(self, *words: bytes) -> bytes:
            nonlocal opened
            opened += 1
            return self._cipher.decrypt(*words)  # type: ignore[attr-defined,no-any-return]

    monkeypatch.setattr(receiver, "_receive", Counting(receiver._receive))
    received = receiver.take(run(*datagrams))
    assert received == [packet for number, packet in enumerate(packets) if number not in (0, 7, 8, 29)]
    assert receiver.drops == {DropReason.NOT_AUTHENTIC: 4}
    assert opened == 30
    assert receiver.take(run(*datagrams)) == []
    assert receiver.drops[DropReason.REPLAYED] >= 26
