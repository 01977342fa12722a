"""Reassembly: whatever the network does to pieces, what comes out was sealed by the peer, once, and memory is bounded."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import sealed_record

from holloway.protocols.addresses import Address
from holloway.protocols.events import DropReason
from holloway.protocols.reassembly import (
    HORIZON,
    LIFETIME_S,
    MAX_BYTES,
    MAX_RECORDS,
    PIECE_OVERHEAD_BYTES,
    RECORD_OVERHEAD_BYTES,
    Reassembly,
)
from holloway.protocols.record_wire import Record, RecordKind, open_record
from holloway.protocols.replay import ReplayWindow

CIPHER, RECEIVER, FIRST = AESGCM(bytes(32)), 0x2222_0002, 1 << 47
HOME: Address = ("192.0.2.7", 1099)
ELSEWHERE: Address = ("192.0.2.8", 1099)


def sealed(serial: int, count: int, piece: int = 100) -> tuple[bytes, list[bytes]]:
    """A plaintext that is told from every other, and its datagrams."""
    length = count * piece - 16
    plaintext = (serial.to_bytes(4, "big") * (length // 4 + 1))[:length]
    return plaintext, sealed_record(CIPHER, RECEIVER, FIRST + serial, Record(RecordKind.PACKETS, plaintext, count))


@dataclass
class Receiver:
    """What a session does with pieces: ask the window, collect, open, commit."""

    drops: Counter[DropReason] = field(default_factory=Counter)
    told: list[tuple[DropReason, Address | None, int]] = field(default_factory=list)
    reassembly: Reassembly = field(init=False)
    window: ReplayWindow = field(default_factory=ReplayWindow)
    delivered: list[bytes] = field(default_factory=list)
    offered: int = 0
    joined: int = 0
    forged: int = 0

    def __post_init__(self) -> None:
        self.reassembly = Reassembly(self.note)

    def note(self, reason: DropReason, source: Address | None, count: int) -> None:
        assert count > 0
        self.drops[reason] += count
        self.told.append((reason, source, count))

    def take(self, datagram: bytes, source: Address = HOME, now: float = 0.0) -> None:
        word = int.from_bytes(datagram[8:16].ljust(8, b"\0"), "little")
        if not self.window.is_new(word >> 12):
            return
        self.offered += 1
        whole = self.reassembly.add(datagram, source, HOME, max(self.window.top, FIRST - 1), now)
        assert self.reassembly.held_bytes <= MAX_BYTES
        assert len(self.reassembly) <= MAX_RECORDS
        if whole is None:
            return
        head, ciphertext = whole
        self.joined += head.datagrams
        plaintext = open_record(CIPHER.decrypt, head.kind, head.counter, head.datagrams, ciphertext)
        if plaintext is None:
            self.forged += 1
            return
        assert self.window.commit(head.counter)
        self.delivered.append(plaintext)

    def account(self) -> None:
        """Every piece is somewhere."""
        held = self.reassembly.held_pieces
        assert self.offered == self.joined + held + sum(self.drops.values())


@pytest.mark.parametrize("order", ["in order", "reversed", "shuffled", "twice"])
@pytest.mark.parametrize("count", [1, 2, 3, 44, 64])
def test_pieces_make_their_record_in_any_order(order: str, count: int) -> None:
    plaintext, datagrams = sealed(0, count)
    if order == "reversed":
        datagrams.reverse()
    elif order == "shuffled":
        random.Random(1).shuffle(datagrams)
    elif order == "twice":
        datagrams = [datagram for datagram in datagrams for _ in range(2)]
    receiver = Receiver()
    for datagram in datagrams:
        receiver.take(datagram)
    assert receiver.delivered == [plaintext]
    assert (len(receiver.reassembly), receiver.reassembly.held_bytes) == (0, 0)
    # Of a record of one datagram, and of the last, the second copy is for the replay window.
    assert receiver.drops == ({DropReason.PIECE_DOUBLE: count - 1} if order == "twice" and count > 1 else {})
    receiver.account()


@settings(deadline=None, max_examples=120, derandomize=True)
@given(
    counts=st.lists(st.integers(1, 64), min_size=1, max_size=12),
    seed=st.integers(0, 1 << 32),
    loss=st.sampled_from([0.0, 0.02, 0.3]),
    double=st.sampled_from([0.0, 0.2]),
    shift=st.sampled_from([0, 3, 200]),
    forged=st.sampled_from([0.0, 0.05, 0.5]),
    foreign=st.sampled_from([0.0, 0.1]),
    burst=st.integers(0, 100),
)
def test_what_comes_out_was_sent_and_comes_out_once(
    counts: list[int], seed: int, loss: float, double: float, shift: int, forged: float, foreign: float, burst: int
) -> None:
    rng = random.Random(seed)
    plaintexts: list[bytes] = []
    schedule: list[tuple[float, bytes, Address]] = []
    for serial, count in enumerate(counts):
        plaintext, datagrams = sealed(serial, count)
        plaintexts.append(plaintext)
        for datagram in datagrams:
            at = float(len(schedule))
            if rng.random() >= loss:
                source = ELSEWHERE if rng.random() < foreign else HOME
                schedule.append((at + rng.uniform(0, shift), datagram, source))
            if rng.random() < double:
                schedule.append((at + rng.uniform(0, shift), datagram, HOME))
            if rng.random() < forged:
                spoilt = bytearray(datagram)
                for _ in range(rng.randint(1, 3)):
                    spoilt[rng.randrange(4, len(spoilt))] = rng.randrange(256)
                if rng.random() < 0.3:
                    del spoilt[rng.randrange(len(spoilt)) :]
                schedule.append((at + rng.uniform(-shift, shift), bytes(spoilt), HOME))
    start = rng.randrange(len(schedule) + 1)
    del schedule[start : start + (burst if loss else 0)]
    schedule.sort(key=lambda entry: entry[0])
    receiver = Receiver()
    for step, (_, datagram, source) in enumerate(schedule):
        receiver.take(datagram, source, step / 10_000)
    assert not Counter(receiver.delivered) - Counter(plaintexts)
    if not (loss or forged or foreign):
        assert Counter(receiver.delivered) == Counter(plaintexts)
        assert receiver.reassembly.held_bytes == 0
    receiver.account()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(seed=st.integers(0, 1 << 32))
def test_a_flood_of_forged_pieces_is_bounded_moves_nothing_and_never_raises(seed: int) -> None:
    rng = random.Random(seed)
    receiver = Receiver()
    for step in range(600):
        counter = FIRST + rng.choice([0, 1, rng.randrange(4000), rng.randrange(1 << 20), -5, (1 << 51) - FIRST])
        header = struct.pack("<IHHQ", RECEIVER, rng.randrange(70), rng.randrange(6), counter << 12 | rng.randrange(70))
        datagram = (header + bytes(rng.choice([0, 1, 100, 1436, 9000])))[: rng.choice([9999, 9999, 9999, 15, 16, 17])]
        receiver.take(datagram, rng.choice([HOME, HOME, ELSEWHERE]), step / 1000)
    assert receiver.window.top == -1
    assert receiver.delivered == []
    receiver.account()
    receiver.reassembly.expire(10.0)
    assert receiver.reassembly.held_bytes == 0
    receiver.account()


def test_a_forged_piece_costs_the_record_that_it_foretold_and_no_other() -> None:
    (lost, first), (kept, second) = sealed(0, 3), sealed(1, 3)
    receiver = Receiver()
    receiver.take(first[1][:16] + bytes(100))
    for datagram in (*first, *second):
        receiver.take(datagram)
    assert receiver.delivered == [kept]
    assert lost not in receiver.delivered
    assert receiver.forged == 1
    assert receiver.drops == {DropReason.PIECE_DOUBLE: 1}


def test_pieces_of_two_records_never_meet() -> None:
    (one, first), (two, second) = sealed(0, 3), sealed(1, 3)
    receiver = Receiver()
    for datagram in (first[0], second[1], first[2], second[0], second[2], first[1]):
        receiver.take(datagram)
    assert receiver.delivered == [two, one]
    # Of the same counter, but in another number of datagrams or of another kind, they are of two records as well.
    receiver = Receiver()
    for number, spread, kind in ((0, 2, 1), (1, 3, 1), (1, 2, 2)):
        receiver.take(struct.pack("<IHHQ", RECEIVER, number, kind, FIRST << 12 | spread) + bytes(100))
    assert len(receiver.reassembly) == 3


def test_a_piece_from_another_address_than_the_peers_is_dropped() -> None:
    _, datagrams = sealed(0, 2)
    receiver = Receiver()
    for home in (ELSEWHERE, None):
        assert receiver.reassembly.add(datagrams[0], HOME, home, FIRST, 0.0) is None
    assert receiver.told == [(DropReason.PIECE_FOREIGN_SOURCE, HOME, 1)] * 2
    assert len(receiver.reassembly) == 0


def test_a_piece_far_above_what_the_peer_has_sent_is_dropped() -> None:
    for ahead, is_kept in ((1, True), (HORIZON, True), (HORIZON + 1, False)):
        receiver = Receiver()
        _, datagrams = sealed(ahead, 2)
        assert receiver.reassembly.add(datagrams[0], HOME, HOME, FIRST, 0.0) is None
        assert len(receiver.reassembly) == is_kept
        assert receiver.drops == ({} if is_kept else {DropReason.PIECE_OUT_OF_RANGE: 1})


def test_a_piece_that_does_not_fit_its_record_is_dropped() -> None:
    plaintext, datagrams = sealed(0, 3)
    receiver = Receiver()
    receiver.take(datagrams[0])
    receiver.take(datagrams[1][:-1])
    receiver.take(datagrams[1] + b"x")
    assert receiver.drops == {DropReason.PIECE_MISFIT: 2}
    receiver.take(datagrams[1])
    receiver.take(datagrams[2])
    assert receiver.delivered == [plaintext]
    too_long = struct.pack("<IHHQ", RECEIVER, 0, 1, (FIRST + 1) << 12 | 63) + bytes(1026)
    receiver.take(too_long)
    assert receiver.drops == {DropReason.PIECE_MISFIT: 3}
    receiver.take(too_long[:-1])
    assert len(receiver.reassembly) == 1


def test_what_is_no_piece_is_malformed() -> None:
    receiver = Receiver()
    for datagram in (b"", bytes(16), struct.pack("<IHHQ", RECEIVER, 3, 1, FIRST << 12 | 2) + b"x"):
        receiver.take(datagram)
    assert receiver.drops == {DropReason.PIECE_MALFORMED: 3}


def test_a_record_that_stays_incomplete_is_forgotten_half_a_second_after_its_first_piece() -> None:
    receiver = Receiver()
    plaintext, datagrams = sealed(0, 3)
    reassembly = receiver.reassembly
    assert reassembly.next_expiry() is None
    receiver.take(datagrams[0], now=1.0)
    receiver.take(datagrams[1], now=1.4)
    assert reassembly.next_expiry() == 1.0 + LIFETIME_S
    reassembly.expire(1.0 + LIFETIME_S - 0.001)
    assert reassembly.held_pieces == 2
    reassembly.expire(1.0 + LIFETIME_S)
    assert (reassembly.held_bytes, receiver.drops) == (0, {DropReason.PIECE_EXPIRED: 2})
    # A late piece does not complete what has been forgotten, and adding is enough to forget.
    receiver.take(datagrams[2], now=2.0)
    receiver.take(sealed(1, 2)[1][0], now=3.0)
    assert receiver.drops == {DropReason.PIECE_EXPIRED: 3}
    assert plaintext not in receiver.delivered


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.floats(0.0, 1e7))
def test_what_is_said_to_expire_then_does(since: float) -> None:
    """However the sum is rounded: who acts on a deadline that changes nothing would act on it again at once, and for ever."""
    reassembly = Receiver().reassembly
    reassembly.add(struct.pack("<IHHQ", RECEIVER, 0, 1, FIRST << 12 | 2) + bytes(100), HOME, HOME, FIRST, since)
    at = reassembly.next_expiry()
    assert at is not None
    reassembly.expire(at)
    assert reassembly.next_expiry() is None


def test_the_oldest_incomplete_records_make_room_by_number_and_by_bytes() -> None:
    for piece, fit in (
        (100, MAX_RECORDS),
        (20_000, MAX_BYTES // (20_000 + RECORD_OVERHEAD_BYTES + PIECE_OVERHEAD_BYTES)),
    ):
        receiver = Receiver()
        records = [sealed(serial, 3, piece) for serial in range(fit + 5)]
        for _, datagrams in records:
            receiver.take(datagrams[0])
        assert len(receiver.reassembly) == fit
        assert receiver.drops == {DropReason.PIECE_PUSHED_OUT: 5}
        receiver.account()
        for datagram in records[-1][1][1:]:
            receiver.take(datagram)
        assert receiver.delivered == [records[-1][0]]


def test_giving_up_the_key_gives_up_everything() -> None:
    receiver = Receiver()
    for serial in range(3):
        receiver.take(sealed(serial, 4)[1][serial])
    receiver.reassembly.clear()
    assert (len(receiver.reassembly), receiver.reassembly.held_bytes) == (0, 0)
    assert receiver.drops == {DropReason.PIECE_FORGOTTEN: 3}
    receiver.account()


@pytest.mark.parametrize(
    ("count", "held", "piece"), [(64, 1, 1), (64, 63, 1), (64, 63, 1000), (2, 1, 1), (2, 1, 30_000)]
)
def test_what_is_counted_as_memory_is_no_less_than_what_is_used(count: int, held: int, piece: int) -> None:
    reassembly = Receiver().reassembly
    body = bytes(piece)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for serial in range(200):
            for number in range(held):
                header = struct.pack("<IHHQ", RECEIVER, number, 1, FIRST + serial << 12 | count - 1)
                reassembly.add(header + body, HOME, HOME, FIRST, 0.0)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0 < used <= reassembly.held_bytes <= MAX_BYTES
    assert "records" in repr(reassembly)
