"""Records on the wire: exact bytes, positions that are authenticated, runs, and whole records through a bad network."""

from __future__ import annotations

import random
import struct
from collections import Counter

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import inner_packet, sealed_record
from super_packets import batches, one_by_one, segments_of, super_packet

from holloway.protocols.arrivals import RunMemory
from holloway.protocols.journal import Journal
from holloway.protocols.noise import DerivedKeys
from holloway.protocols.packets import Packet
from holloway.protocols.reassembly import MAX_BYTES, Reassembly
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_wire import (
    HEADER_BYTES,
    MAX_SEALED_BYTES,
    Record,
    RecordKind,
    first_counter,
    join_run,
    open_record,
    parse_head,
)
from holloway.protocols.records import plan
from holloway.protocols.replay import ReplayWindow
from holloway.protocols.runs import flatten
from holloway.protocols.suites import AES_GCM

KEY, RECEIVER, ROOM = bytes(range(32)), 0x2222_0002, 1420
CIPHER = AESGCM(KEY)
FIRST = first_counter(KEY)
hostile = settings(deadline=None, max_examples=200, derandomize=True)
modest = settings(deadline=None, max_examples=40, derandomize=True)


@modest
@given(
    sizes=st.lists(st.integers(36, 1600), max_size=30), junk=st.sets(st.integers(0, 29)), limit=st.integers(60, 1500)
)
def test_the_first_records_under_a_key_are_of_one_datagram_as_far_as_the_packets_fit(
    sizes: list[int], junk: set[int], limit: int
) -> None:
    packets = [inner_packet(n, size)[: -1 if n in junk else None] for n, size in enumerate(sizes)]
    packets = [packet for packet in packets if len(packet) <= limit] or [b""]
    keys = RecordKeys(
        AES_GCM,
        DerivedKeys(KEY, KEY, RECEIVER, RECEIVER, b"t" * 16),
        Journal(),
        is_initiator=True,
        created_at=0.0,
        expires_at=180.0,
        epoch=1,
    )
    records, refused = plan(packets, limit, 1)
    assert not refused
    assert {record.datagrams for record in records} == {1}
    expected = [d for n, record in enumerate(records, FIRST) for d in sealed_record(CIPHER, RECEIVER, n, record)]
    assert flatten(keys.seal(packets, limit, 0.0)) == expected


def test_exact_bytes_of_a_record_in_three_datagrams() -> None:
    packet = super_packet(3000, 1368)
    (record,), _ = plan([packet], ROOM, 3)
    assert record.kind is RecordKind.SUPER_PACKETS
    assert record.plaintext == struct.pack("<H", 1368) + packet.data + bytes(-(2 + 3052 + 16) % 3)
    datagrams = sealed_record(CIPHER, RECEIVER, 5, record)
    nonce = struct.pack("<HHQ", 0, 3, 5 << 12 | 2)
    sealed = CIPHER.encrypt(nonce, record.plaintext, None)
    assert datagrams == [
        struct.pack("<IHHQ", RECEIVER, number, 3, 5 << 12 | 2) + sealed[number * 1024 : (number + 1) * 1024]
        for number in range(3)
    ]


def joined(datagrams: list[bytes]) -> bytes | None:
    """The sealed record at the beginning of a run of datagrams of one length."""
    return join_run(b"".join(datagrams), 0, len(datagrams[0]))


@hostile
@given(at=st.integers(4, 15), bit=st.integers(0, 7), which=st.integers(0, 4))
def test_a_changed_header_makes_another_record_or_one_that_is_not_authentic_or_stands_where_none_is_needed(
    at: int, bit: int, which: int
) -> None:
    (record,), _ = plan([super_packet(6000, 1368)], ROOM, 8)
    datagrams = sealed_record(CIPHER, RECEIVER, 77, record)
    changed = bytearray(datagrams[which])
    changed[at] ^= 1 << bit
    datagrams[which] = bytes(changed)
    first = parse_head(datagrams[0])
    sealed = joined(datagrams)
    if which in (0, 4):
        assert (
            sealed is None
            or first is None
            or open_record(CIPHER.decrypt, first.kind, first.counter, first.datagrams, sealed) is None
        )
    else:
        # The headers between the ends of a run say nothing that the ends do not: what is sealed is all there.
        assert sealed is not None
        assert open_record(CIPHER.decrypt, 3, 77, 5, sealed) == record.plaintext
    # Changed alike in all of them, it may be a run again, and then the tag is wrong.
    if at >= 6:
        alike = [bytearray(d) for d in sealed_record(CIPHER, RECEIVER, 77, record)]
        for datagram in alike:
            datagram[at] ^= 1 << bit
        run = [bytes(d) for d in alike]
        head, sealed = parse_head(run[0]), joined(run)
        assert (
            head is None
            or sealed is None
            or open_record(CIPHER.decrypt, head.kind, head.counter, head.datagrams, sealed) is None
        )


def test_pieces_in_another_order_are_not_authentic() -> None:
    (record,), _ = plan([super_packet(6000, 1368)], ROOM, 8)
    datagrams = sealed_record(CIPHER, RECEIVER, 1, record)
    sealed = joined(datagrams)
    assert sealed is not None
    assert open_record(CIPHER.decrypt, 3, 1, 5, sealed) == record.plaintext
    swapped = joined([datagrams[0], datagrams[2], datagrams[1], *datagrams[3:]])
    assert swapped is not None
    assert open_record(CIPHER.decrypt, 3, 1, 5, swapped) is None
    assert open_record(CIPHER.decrypt, 3, 1, 4, sealed) is None
    assert open_record(CIPHER.decrypt, 3, 1, 5, sealed[:15]) is None
    assert open_record(CIPHER.decrypt, 3, 1, 5, bytes(MAX_SEALED_BYTES + 1)) is None


def test_runs_are_joined_only_where_a_record_begins_and_its_last_datagram_is_where_it_belongs() -> None:
    (three,), _ = plan([super_packet(3000, 1368)], ROOM, 8)
    first, second, third = sealed_record(CIPHER, RECEIVER, 2, three)
    other = sealed_record(CIPHER, RECEIVER, 3, three)
    stride = len(first)
    run = b"".join((first, second, third, *other))
    for data in (run, memoryview(run), memoryview(bytearray(run))):
        for at, expected in ((0, [first, second, third]), (3 * stride, other)):
            assert join_run(data, at, stride) == b"".join(piece[16:] for piece in expected)
        for number in (1, 2, 4, 5):
            assert join_run(data, number * stride, stride) is None
    memory = RunMemory(len(run) + 100)
    for _ in range(2):  # what it keeps is as good as new
        for begin in (0, stride):  # another run in the same memory
            memory.view[: len(run) - begin] = run[begin:]
            for at in range(0, len(run) - begin, stride):
                whole = join_run(run, begin + at, stride)
                assert join_run(memory.view[: len(run) - begin], at, stride, memory) == whole
    for broken in (
        [first],
        [first, second],
        [first, third, second],
        [first, second, second],
        [first, second, other[2]],
        [second, second, third],
        [first, second, third[:-1]],
    ):
        assert joined(broken) is None
    (one,), _ = plan([inner_packet(0, 100)], ROOM, 1)
    (single,) = sealed_record(CIPHER, RECEIVER, 1, one)
    assert joined([single]) == single[16:]


def test_a_head_that_no_record_has_is_none() -> None:
    def head(number: int, spread: int) -> bytes:
        return struct.pack("<IHHQ", RECEIVER, number, 1, 9 << 12 | spread) + b"x"

    assert parse_head(head(3, 3)) == (3, 1, 9, 4)
    assert parse_head(head(63, 63)) == (63, 1, 9, 64)
    assert parse_head(head(0, 0)[:16]) is None
    assert parse_head(b"") is None
    for number, spread in ((1, 0), (64, 63), (0, 64), (0, 0x800), (0xFFFF, 5)):
        assert parse_head(head(number, spread)) is None


def test_the_first_counter_follows_from_the_key_and_leaves_room_for_a_keys_life() -> None:
    assert first_counter(KEY) == first_counter(bytes(KEY)) != first_counter(bytes(32))
    counters = [first_counter(bytes([n]) * 32) for n in range(200)]
    assert len(set(counters)) == 200
    assert max(counters) < 1 << 48
    assert max(counters) > 1 << 47


def test_a_datagram_is_16_bytes_of_header_and_its_share_of_the_record() -> None:
    (record,), _ = plan([super_packet(60_000, 1368)], ROOM, 64)
    datagrams = sealed_record(CIPHER, RECEIVER, (1 << 52) - 1, record)
    assert sum(len(datagram) - HEADER_BYTES for datagram in datagrams) == len(record.plaintext) + 16
    head = parse_head(datagrams[-1])
    assert head == (len(datagrams) - 1, 3, (1 << 52) - 1, len(datagrams))


def run_at(datagrams: list[bytes], at: int) -> bytes | None:
    """The sealed record that begins at this datagram, if the following ones are the rest of it."""
    head = parse_head(datagrams[at])
    run = datagrams[at : at + head.datagrams] if head is not None else []
    return joined(run) if len({len(datagram) for datagram in run}) == 1 else None


def arriving(datagrams: list[bytes]) -> list[Record]:
    """What a receiver opens of datagrams in this order: runs at once, the rest piece by piece, each counter once."""
    reassembly, window, opened = Reassembly(lambda *drop: None), ReplayWindow(), []
    at = 0
    while at < len(datagrams):
        head, sealed = parse_head(datagrams[at]), run_at(datagrams, at)
        at += 1
        if head is None or not window.is_new(head.counter):
            continue
        if sealed is not None:
            at += head.datagrams - 1
        else:
            whole = reassembly.add(datagrams[at - 1], ("peer", 1), ("peer", 1), max(window.top, 0), at / 10_000)
            assert reassembly.held_bytes <= MAX_BYTES
            if whole is None:
                continue
            head, sealed = whole
        plaintext = open_record(CIPHER.decrypt, head.kind, head.counter, head.datagrams, sealed)
        if plaintext is not None and window.commit(head.counter):
            opened.append(Record(RecordKind(head.kind), plaintext, head.datagrams))
    return opened


@modest
@given(
    batch=batches(),
    datagrams=st.sampled_from([1, 3, 8, 44, 64]),
    seed=st.integers(0, 1 << 32),
    loss=st.sampled_from([0.0, 0.01, 0.2]),
    double=st.sampled_from([0.0, 0.3]),
    shift=st.sampled_from([0, 2, 100]),
    forged=st.sampled_from([0.0, 0.02]),
)
def test_through_a_bad_network_comes_nothing_but_whole_packets_that_were_sent_and_each_once(
    batch: list[Packet], datagrams: int, seed: int, loss: float, double: float, shift: int, forged: float
) -> None:
    rng = random.Random(seed)
    records, _ = plan(batch, ROOM, datagrams)
    schedule: list[tuple[float, bytes]] = []
    for counter, record in enumerate(records):
        for datagram in sealed_record(CIPHER, RECEIVER, counter, record):
            at = float(len(schedule))
            copies = (rng.random() >= loss) + (rng.random() < double)
            schedule += [(at + rng.uniform(0, shift), datagram) for _ in range(copies)]
            if rng.random() < forged:
                spoilt = bytearray(datagram)
                spoilt[rng.randrange(4, len(spoilt))] ^= 1 << rng.randrange(8)
                schedule.append((at + rng.uniform(-shift, shift), bytes(spoilt)))
    schedule.sort(key=lambda entry: entry[0])
    came = Counter(
        packet for record in arriving([datagram for _, datagram in schedule]) for packet in one_by_one(record)
    )
    sent = Counter(segment for packet in batch for segment in segments_of(packet))
    assert not came - sent
    if not (loss or forged):
        assert came == sent
