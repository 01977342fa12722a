"""Transport keys: exact bytes, replay, tampering, framing, counters."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st
from session_world import inner_packet, sealed
from super_packets import super_packet

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival, lone
from holloway.protocols.errors import KeyExhausted
from holloway.protocols.events import DropReason
from holloway.protocols.journal import Journal
from holloway.protocols.keyring import framing
from holloway.protocols.noise import DerivedKeys
from holloway.protocols.packets import Packet, SuperPacket, count_packets
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_wire import SPREAD_BITS, first_counter
from holloway.protocols.replay import WINDOW_SIZE
from holloway.protocols.runs import flatten
from holloway.protocols.suites import AES_GCM, SUITES, WIREGUARD, Suite
from holloway.protocols.transport import TransportKeys, WireGuardKeys

FORTH, BACK = bytes(range(32)), bytes(range(32, 64))
MTU = 1420
HOME: Address = ("192.0.2.7", 1099)

both_suites = pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))


def pair(suite: Suite) -> tuple[TransportKeys, TransportKeys]:
    """The slots of both sides of one handshake."""
    ours = DerivedKeys(FORTH, BACK, 0x1111_0001, 0x2222_0002, b"t" * suite.token_bytes)
    theirs = DerivedKeys(BACK, FORTH, 0x2222_0002, 0x1111_0001, b"u" * suite.token_bytes)
    make = framing(suite)
    return (
        make(suite, ours, Journal(), is_initiator=True, created_at=0.0, expires_at=180.0, epoch=1),
        make(suite, theirs, Journal(), is_initiator=False, created_at=0.0, expires_at=180.0, epoch=1),
    )


def outcome(keys: TransportKeys, datagram: bytes) -> list[Packet] | DropReason | None:
    """The packets of a datagram, or why it was dropped; None while it waits for the rest of its record."""
    drops = keys._journal.drops
    before, waiting = drops.copy(), keys.next_expiry()
    opened = keys.open(lone(datagram, HOME), HOME, 0.0)
    new = drops - before
    if new:
        assert sum(new.values()) == 1
        assert all(not record.packets for record in opened)
        return next(iter(new))
    if not opened:
        assert waiting is not None or keys.next_expiry() is not None
        return None
    ((_, packets, size, datagrams, plaintext),) = opened
    assert (size, datagrams, plaintext) == (len(datagram), 1, b"")
    return list(packets)


def opened(keys: TransportKeys, datagram: bytes) -> list[Packet]:
    packets = outcome(keys, datagram)
    assert isinstance(packets, list), packets
    return packets


def first(suite: Suite) -> int:
    """The first counter under `FORTH`."""
    return first_counter(FORTH) if suite is AES_GCM else 0


def with_counter(suite: Suite, datagram: bytes, counter: int) -> bytes:
    """The datagram with another counter, as far above the first."""
    word = (first(suite) + counter) << SPREAD_BITS if suite is AES_GCM else counter
    return datagram[:8] + struct.pack("<Q", word) + datagram[16:]


def test_exact_bytes_of_the_wireguard_suite() -> None:
    ours, _ = pair(WIREGUARD)
    packet = inner_packet(1, 81)
    sealed(ours, [packet] * 5, MTU, 0.0)
    (datagram,) = sealed(ours, [packet], MTU, 0.0)
    # WireGuard paper, section 5.4.6: type 4, receiver, counter; nonce is 32 zero bits and the counter; padded to 16.
    assert datagram[:16] == struct.pack("<IIQ", 4, 0x2222_0002, 5)
    nonce = bytes(4) + struct.pack("<Q", 5)
    assert datagram[16:] == ChaCha20Poly1305(FORTH).encrypt(nonce, packet + bytes(96 - 81), b"")


def test_exact_bytes_of_the_aes_gcm_suite() -> None:
    ours, _ = pair(AES_GCM)
    packet = inner_packet(1, 81)
    for _ in range(5):
        sealed(ours, [packet], MTU, 0.0)
    (datagram,) = sealed(ours, [packet, packet], MTU, 0.0)
    assert datagram[:16] == struct.pack("<IHHQ", 0x2222_0002, 0, 1, first_counter(FORTH) + 5 << 12)
    assert datagram[16:] == AESGCM(FORTH).encrypt(datagram[4:16], packet + packet, b"")


@both_suites
def test_keepalive_is_the_shortest_datagram_and_carries_nothing(suite: Suite) -> None:
    ours, theirs = pair(suite)
    (datagram,) = sealed(ours, [b""], MTU, 0.0)
    assert len(datagram) == 32
    assert opened(theirs, datagram) == []


@both_suites
@given(sizes=st.lists(st.integers(36, 1600), max_size=30), limit=st.integers(60, 1500))
def test_packets_arrive_whole_and_in_order(suite: Suite, sizes: list[int], limit: int) -> None:
    ours, theirs = pair(suite)
    packets = [inner_packet(serial, size) for serial, size in enumerate(sizes)]
    datagrams = sealed(ours, packets, limit, 0.0)
    arrived = [outcome_of_any(theirs, datagram) for datagram in datagrams]
    assert [packet for packets in arrived for packet in packets] == packets
    longest = limit if suite is AES_GCM else max([limit, *sizes])  # what does not fit in a datagram is spread
    assert all(len(datagram) <= longest + 32 for datagram in datagrams)


def outcome_of_any(keys: TransportKeys, datagram: bytes) -> list[Packet]:
    """The packets of the record that a datagram completes, if it does."""
    return [packet for record in keys.open(lone(datagram, HOME), HOME, 0.0) for packet in record.packets]


def test_padding_stops_at_the_limit() -> None:
    ours, theirs = pair(WIREGUARD)
    for size, limit, padded in (
        (64, 1420, 64),
        (65, 1420, 80),
        (1419, 1420, 1420),
        (1420, 1420, 1420),
        (1500, 1420, 1500),
    ):
        (datagram,) = sealed(ours, [inner_packet(0, size)], limit, 0.0)
        assert len(datagram) == padded + 32
        assert opened(theirs, datagram) == [inner_packet(0, size)]


def test_small_packets_share_a_record_up_to_the_limit() -> None:
    ours, theirs = pair(AES_GCM)
    packets = [inner_packet(serial, 100) for serial in range(10)]
    datagrams = sealed(ours, packets, 400, 0.0)
    assert [len(opened(theirs, datagram)) for datagram in datagrams] == [4, 4, 2]
    assert ours.sent == 3


def test_a_packet_that_is_not_as_long_as_it_says_travels_alone_and_harms_no_other() -> None:
    ours, theirs = pair(AES_GCM)
    good, bad = inner_packet(0, 100), inner_packet(1, 100) + b"trailing"
    datagrams = sealed(ours, [good, bad, good, good, b"junk", good], MTU, 0.0)
    received = [outcome(theirs, datagram) for datagram in datagrams]
    assert received == [
        [good],
        DropReason.MALFORMED,
        [good, good],
        DropReason.MALFORMED,
        [good],
    ]


@both_suites
def test_every_flipped_bit_of_a_datagram_is_refused_and_moves_no_window(suite: Suite) -> None:
    ours, theirs = pair(suite)
    (datagram,) = sealed(ours, [inner_packet(0, 64)], MTU, 0.0)
    for place in range(4 if suite is AES_GCM else 8, len(datagram)):  # before that: which slot it is for
        for bit in range(8):
            broken = datagram[:place] + bytes((datagram[place] ^ 1 << bit,)) + datagram[place + 1 :]
            assert not isinstance(outcome(theirs, broken), list)
            assert theirs.top == -1
    assert opened(theirs, datagram) == [inner_packet(0, 64)]


@both_suites
def test_every_truncation_is_refused(suite: Suite) -> None:
    ours, theirs = pair(suite)
    (datagram,) = sealed(ours, [inner_packet(0, 64)], MTU, 0.0)
    for length in range(len(datagram)):
        expected = DropReason.BAD_LENGTH if length < 32 else DropReason.NOT_AUTHENTIC
        assert outcome(theirs, datagram[:length]) is expected
    assert outcome(theirs, datagram + b"x") is DropReason.NOT_AUTHENTIC


@both_suites
def test_a_datagram_is_accepted_once_in_any_order_within_the_window(suite: Suite) -> None:
    ours, theirs = pair(suite)
    datagrams = [sealed(ours, [inner_packet(serial)], MTU, 0.0)[0] for serial in range(40)]
    for datagram in (*datagrams[20:], *reversed(datagrams[:20])):
        opened(theirs, datagram)
    assert {outcome(theirs, datagram) for datagram in datagrams} == {DropReason.REPLAYED}
    assert theirs.top == first(suite) + 39


@both_suites
def test_what_lags_behind_the_window_is_a_replay(suite: Suite) -> None:
    ours, theirs = pair(suite)
    early, second, third = (sealed(ours, [b""], MTU, 0.0)[0] for _ in range(3))
    ours._take_counters(WINDOW_SIZE - 2)
    (far,) = sealed(ours, [b""], MTU, 0.0)
    opened(theirs, early)
    opened(theirs, far)
    assert outcome(theirs, second) is DropReason.REPLAYED
    assert opened(theirs, third) == []


@both_suites
def test_a_forged_counter_does_not_move_the_window(suite: Suite) -> None:
    ours, theirs = pair(suite)
    (datagram,) = sealed(ours, [b""], MTU, 0.0)
    for forged in (with_counter(suite, datagram, 1 << counter) for counter in (0, 5, 24)):
        assert outcome(theirs, forged) is DropReason.NOT_AUTHENTIC
    assert opened(theirs, datagram) == []


@both_suites
def test_our_own_datagrams_come_back_as_not_ours(suite: Suite) -> None:
    ours, _ = pair(suite)
    (datagram,) = sealed(ours, [inner_packet(0)], MTU, 0.0)
    own = DropReason.UNKNOWN_INDEX if suite is AES_GCM else DropReason.NOT_AUTHENTIC
    assert outcome(ours, datagram) is own
    at = 0 if suite is AES_GCM else 4
    to_us = datagram[:at] + ours.local_index.to_bytes(4, "little") + datagram[at + 4 :]
    assert outcome(ours, to_us) is not own or suite is WIREGUARD


@both_suites
def test_a_key_refuses_before_its_counter_would_end_and_seals_nothing_then(suite: Suite) -> None:
    ours, theirs = pair(replace(suite, reject_after_messages=10))
    big = [inner_packet(serial, 1400) for serial in range(11)]
    assert not ours.can_seal(big)
    with pytest.raises(KeyExhausted):
        sealed(ours, big, MTU, 0.0)
    assert ours.sent == 0
    assert ours.can_seal(big[:10])
    datagrams = sealed(ours, big[:10], MTU, 0.0)
    assert [packet for datagram in datagrams for packet in opened(theirs, datagram)] == big[:10]
    with pytest.raises(KeyExhausted):
        sealed(ours, [b""], MTU, 0.0)


@both_suites
def test_a_counter_beyond_the_limit_is_refused_though_authentic(suite: Suite) -> None:
    ours, _ = pair(suite)
    _, theirs = pair(replace(suite, reject_after_messages=10))
    datagrams = sealed(ours, [inner_packet(serial, 1400) for serial in range(11)], MTU, 0.0)
    assert [isinstance(outcome(theirs, datagram), list) for datagram in datagrams] == [True] * 10 + [False]
    # Where counters begin anywhere, one beyond the last is no more expected than one below the first.
    reason = DropReason.KEY_EXPIRED if suite is WIREGUARD else DropReason.NOT_AUTHENTIC
    assert outcome(theirs, datagrams[10]) is reason


def test_limits_of_the_suites() -> None:
    assert WIREGUARD.rekey_after_messages == 2**60  # WireGuard paper, section 6.1
    assert WIREGUARD.reject_after_messages == 2**64 - 2**13 - 1
    assert AES_GCM.rekey_after_messages == 2**24
    assert AES_GCM.reject_after_messages == 2**25
    ours, _ = pair(WIREGUARD)
    ours._take_counters(WIREGUARD.reject_after_messages - 1)
    (last,) = sealed(ours, [b""], MTU, 0.0)
    assert last[8:16] == struct.pack("<Q", 2**64 - 2**13 - 2)
    assert not ours.can_seal([b""])


@pytest.mark.parametrize(
    ("number", "kind", "spread"),
    [
        (1, 1, 0),  # not the only datagram of a record of one
        (3, 1, 2),
        (0, 0, 0),  # unknown kinds
        (0, 7, 0),
        (0, 0xFFFF, 0),
        (0, 1, 64),  # a record of more datagrams than there are
        (0, 1, 1 << 11),
    ],
)
def test_records_that_we_cannot_read_are_refused_even_when_authentic(number: int, kind: int, spread: int) -> None:
    header = struct.pack("<IHHQ", 0x2222_0002, number, kind, first_counter(FORTH) << SPREAD_BITS | spread)
    _, theirs = pair(AES_GCM)
    sealed = AESGCM(FORTH).encrypt(header[4:], inner_packet(0), None)
    assert outcome(theirs, header + sealed) is DropReason.MALFORMED
    assert theirs.top == -1


@both_suites
@pytest.mark.parametrize("content", [b"\x00", b"E", b"\x45" + bytes(30), b"not a packet at all, but authentic"])
def test_an_authentic_datagram_without_packets_in_it_is_malformed(suite: Suite, content: bytes) -> None:
    ours, theirs = pair(suite)
    (datagram,) = sealed(ours, [content], MTU, 0.0)
    assert outcome(theirs, datagram) is DropReason.MALFORMED
    assert outcome(theirs, datagram) is DropReason.REPLAYED


def test_a_record_with_a_broken_packet_in_it_gives_none_of_them() -> None:
    _, theirs = pair(AES_GCM)
    header = struct.pack("<IHHQ", 0x2222_0002, 0, 1, first_counter(FORTH) << SPREAD_BITS)
    plaintext = inner_packet(0) + inner_packet(1)[:-1]
    assert outcome(theirs, header + AESGCM(FORTH).encrypt(header[4:], plaintext, None)) is DropReason.MALFORMED


@both_suites
@given(data=st.binary(max_size=200))
def test_no_bytes_raise_or_open(suite: Suite, data: bytes) -> None:
    _, theirs = pair(suite)
    assert isinstance(outcome(theirs, data), DropReason)
    assert theirs.top == -1


def test_framing_follows_the_suite_and_repr_shows_no_key() -> None:
    assert framing(AES_GCM) is RecordKeys
    assert framing(WIREGUARD) is WireGuardKeys
    assert repr(pair(AES_GCM)[0]) == "<RecordKeys epoch 1 index 0x11110001 sent 0>"
    assert repr(pair(WIREGUARD)[1]) == "<WireGuardKeys epoch 1 index 0x22220002 sent 0>"


def test_a_run_of_the_wireguard_suite_is_opened_datagram_by_datagram() -> None:
    ours, theirs = pair(WIREGUARD)
    packets = [inner_packet(serial, 112) for serial in range(6)]
    datagrams = sealed(ours, packets, MTU, 0.0)
    datagrams[2] = datagrams[2][:-1] + bytes((datagrams[2][-1] ^ 1,))
    datagrams.append(datagrams[5][:31])
    opened = theirs.open(Arrival(HOME, memoryview(b"".join(datagrams)), len(datagrams[0])), None, 0.0)
    assert [record.packets for record in opened] == [(packet,) for n, packet in enumerate(packets) if n != 2]
    assert theirs._journal.drops == {DropReason.NOT_AUTHENTIC: 1, DropReason.BAD_LENGTH: 1}


def test_the_wireguard_suite_sends_a_super_packet_as_its_segments() -> None:
    ours, theirs = pair(WIREGUARD)
    whole, junk = super_packet(5000, 1300, version=6), SuperPacket(b"junk" * 20, 10)
    batch: list[Packet] = [inner_packet(0), whole, junk, inner_packet(1)]
    assert count_packets(batch) == 7, "what is malformed counts as one"
    datagrams = sealed(ours, batch, MTU, 0.0)
    received = [packet for datagram in datagrams for packet in opened(theirs, datagram)]
    assert received == [inner_packet(0), *whole.segments(), inner_packet(1)]
    assert ours._journal.drops == {DropReason.MALFORMED: 1}
    assert sealed(ours, [junk], MTU, 0.0) == []
    assert ours.sent == 6


def test_with_one_datagram_a_record_nothing_waits_and_nothing_is_reported() -> None:
    ours, theirs = pair(WIREGUARD)
    for datagram in sealed(ours, [inner_packet(n, 1400) for n in range(20)], MTU, 0.0):
        opened(theirs, datagram)
    theirs.expire(1000.0)
    theirs.forget()
    assert (theirs.report_due_at, flatten(theirs.seal_report(1.0)), theirs.next_expiry()) == (None, [], None)
    assert theirs._journal.drops == {}


@both_suites
def test_a_key_is_worn_when_a_successor_is_due(suite: Suite) -> None:
    ours, _ = pair(replace(suite, rekey_after_messages=3))
    for _ in range(3):
        assert not ours.is_worn
        sealed(ours, [b""], MTU, 0.0)
    assert ours.is_worn
