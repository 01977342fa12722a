"""Records on the wire: exact bytes, positions that are authenticated, runs, and whole records through a bad network."""

from __future__ import annotations

import random
import struct
from collections import Counter

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import inner_packet
from super_packets import batches, one_by_one, segments_of, super_packet

from holloway.protocols.noise import DerivedKeys
from holloway.protocols.packets import Packet
from holloway.protocols.reassembly import MAX_BYTES, Reassembly
from holloway.protocols.record_wire import (
    HEADER_BYTES,
    MAX_SEALED_BYTES,
    Record,
    RecordKind,
    first_counter,
    join,
    open_record,
    parse_head,
    run_length,
    seal,
)
from holloway.protocols.records import plan
from holloway.protocols.replay import ReplayWindow
from holloway.protocols.suites import AES_GCM
from holloway.protocols.transport import RecordKeys

KEY, RECEIVER, ROOM = bytes(range(32)), 0x2222_0002, 1420
CIPHER = AESGCM(KEY)
hostile = settings(deadline=None, max_examples=200, derandomize=True)
modest = settings(deadline=None, max_examples=40, derandomize=True)


@modest
@given(
    sizes=st.lists(st.integers(36, 1600), max_size=30), junk=st.sets(st.integers(0, 29)), limit=st.integers(60, 1500)
)
def test_records_of_one_datagram_are_byte_for_byte_what_the_suite_has_sent_so_far(
    sizes: list[int], junk: set[int], limit: int
) -> None:
    packets = [inner_packet(n, size)[: -1 if n in junk else None] for n, size in enumerate(sizes)]
    packets = [packet for packet in packets if len(packet) <= limit] or [b""]
    keys = RecordKeys(
        AES_GCM,
        DerivedKeys(KEY, KEY, RECEIVER, RECEIVER, b"t" * 16),
        is_initiator=True,
        created_at=0.0,
        expires_at=180.0,
        epoch=1,
    )
    records, refused = plan(packets, limit, 1)
    assert not refused
    assert [d for n, record in enumerate(records) for d in seal(CIPHER.encrypt, RECEIVER, n, record)] == keys.seal(
        packets, limit
    )


def test_exact_bytes_of_a_record_in_three_datagrams() -> None:
    packet = super_packet(3000, 1368)
    (record,), _ = plan([packet], ROOM, 3)
    assert record.kind is RecordKind.SUPER_PACKETS
    assert record.plaintext == struct.pack("<H", 1368) + packet.data + bytes(-(2 + 3052 + 16) % 3)
    datagrams = seal(CIPHER.encrypt, RECEIVER, 5, record)
    nonce = struct.pack("<HHQ", 0, 3, 5 << 12 | 2)
    sealed = CIPHER.encrypt(nonce, record.plaintext, None)
    assert datagrams == [
        struct.pack("<IHHQ", RECEIVER, number, 3, 5 << 12 | 2) + sealed[number * 1024 : (number + 1) * 1024]
        for number in range(3)
    ]


@hostile
@given(at=st.integers(4, 15), bit=st.integers(0, 7), which=st.integers(0, 4))
def test_a_changed_header_makes_another_record_or_one_that_is_not_authentic(at: int, bit: int, which: int) -> None:
    (record,), _ = plan([super_packet(6000, 1368)], ROOM, 8)
    datagrams = seal(CIPHER.encrypt, RECEIVER, 77, record)
    changed = bytearray(datagrams[which])
    changed[at] ^= 1 << bit
    datagrams[which] = bytes(changed)
    assert run_length(datagrams, 0) == 0
    # Changed alike in all of them, it is a run again, and then the tag is wrong.
    if at >= 6 and (at, bit) not in {(8, n) for n in range(8)}:
        alike = [bytearray(d) for d in seal(CIPHER.encrypt, RECEIVER, 77, record)]
        for datagram in alike:
            datagram[at] ^= 1 << bit
        head = parse_head(alike[0])
        assert head is None or (
            open_record(CIPHER.decrypt, head.kind, head.counter, head.datagrams, join([bytes(d) for d in alike]))
            is None
        )


def test_pieces_in_another_order_are_not_authentic() -> None:
    (record,), _ = plan([super_packet(6000, 1368)], ROOM, 8)
    datagrams = seal(CIPHER.encrypt, RECEIVER, 1, record)
    assert open_record(CIPHER.decrypt, 3, 1, 5, join(datagrams)) == record.plaintext
    swapped = [datagrams[1], datagrams[0], *datagrams[2:]]
    assert open_record(CIPHER.decrypt, 3, 1, 5, join(swapped)) is None
    assert open_record(CIPHER.decrypt, 3, 1, 4, join(datagrams)) is None
    assert open_record(CIPHER.decrypt, 3, 1, 5, join(datagrams)[:15]) is None
    assert open_record(CIPHER.decrypt, 3, 1, 5, bytes(MAX_SEALED_BYTES + 1)) is None


def test_runs_are_found_only_where_all_of_a_record_is_there_in_order() -> None:
    (one,), _ = plan([inner_packet(0, 100)], ROOM, 1)
    (three,), _ = plan([super_packet(3000, 1368)], ROOM, 8)
    single = seal(CIPHER.encrypt, RECEIVER, 1, one)
    first, second, third = seal(CIPHER.encrypt, RECEIVER, 2, three)
    other = seal(CIPHER.encrypt, RECEIVER, 3, three)[1]
    assert [run_length([*single, first, second, third], at) for at in range(4)] == [1, 3, 0, 0]
    for broken in ([first], [first, second], [first, third, second], [first, second, second], [first, other, third]):
        assert run_length(broken, 0) == 0
    assert run_length([b""], 0) == run_length([first[:15]], 0) == 0
    for number, spread in ((1, 0), (256, 0), (0, 64), (0, 0x100), (0, 0x800)):
        assert run_length([struct.pack("<IHHQ", RECEIVER, number, 1, 9 << 12 | spread) + bytes(100)], 0) == 0


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
    datagrams = seal(CIPHER.encrypt, RECEIVER, (1 << 52) - 1, record)
    assert sum(len(datagram) - HEADER_BYTES for datagram in datagrams) == len(record.plaintext) + 16
    head = parse_head(datagrams[-1])
    assert head == (len(datagrams) - 1, 3, (1 << 52) - 1, len(datagrams))


def arriving(datagrams: list[bytes]) -> list[Record]:
    """What a receiver opens of datagrams in this order: runs at once, the rest piece by piece, each counter once."""
    reassembly, window, opened = Reassembly(), ReplayWindow(), []
    at = 0
    while at < len(datagrams):
        count = run_length(datagrams, at)
        head = parse_head(datagrams[at])
        if count and head is not None:
            whole = head, join(datagrams[at : at + count])
        else:
            count = 1
            if head is None or not window.is_new(head.counter):
                at += 1
                continue
            maybe = reassembly.add(datagrams[at], ("peer", 1), ("peer", 1), max(window.top, 0), at / 10_000)
            assert reassembly.held_bytes <= MAX_BYTES
            if maybe is None:
                at += 1
                continue
            whole = maybe
        at += count
        head, sealed = whole
        if window.is_new(head.counter):
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
        for datagram in seal(CIPHER.encrypt, RECEIVER, counter, record):
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
