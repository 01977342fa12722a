"""Transport keys: exact bytes, replay, tampering, framing, counters."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st
from session_world import inner_packet

from holloway.protocols.errors import KeyExhausted
from holloway.protocols.events import DropReason
from holloway.protocols.noise import DerivedKeys
from holloway.protocols.replay import WINDOW_SIZE
from holloway.protocols.suites import AES_GCM, SUITES, WIREGUARD, Suite
from holloway.protocols.transport import RecordKeys, TransportKeys, WireGuardKeys, framing

FORTH, BACK = bytes(range(32)), bytes(range(32, 64))
MTU = 1420

both_suites = pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))


def pair(suite: Suite) -> tuple[TransportKeys, TransportKeys]:
    """The slots of both sides of one handshake."""
    ours = DerivedKeys(FORTH, BACK, 0x1111_0001, 0x2222_0002, b"t" * suite.token_bytes)
    theirs = DerivedKeys(BACK, FORTH, 0x2222_0002, 0x1111_0001, b"u" * suite.token_bytes)
    make = framing(suite)
    return (
        make(suite, ours, is_initiator=True, created_at=0.0, expires_at=180.0, epoch=1),
        make(suite, theirs, is_initiator=False, created_at=0.0, expires_at=180.0, epoch=1),
    )


def opened(keys: TransportKeys, datagram: bytes) -> list[bytes]:
    packets = keys.open(datagram)
    assert isinstance(packets, list), packets
    return packets


def test_exact_bytes_of_the_wireguard_suite() -> None:
    ours, _ = pair(WIREGUARD)
    packet = inner_packet(1, 81)
    ours.seal([packet] * 5, MTU)
    (datagram,) = ours.seal([packet], MTU)
    # WireGuard paper, section 5.4.6: type 4, receiver, counter; nonce is 32 zero bits and the counter; padded to 16.
    assert datagram[:16] == struct.pack("<IIQ", 4, 0x2222_0002, 5)
    nonce = bytes(4) + struct.pack("<Q", 5)
    assert datagram[16:] == ChaCha20Poly1305(FORTH).encrypt(nonce, packet + bytes(96 - 81), b"")


def test_exact_bytes_of_the_aes_gcm_suite() -> None:
    ours, _ = pair(AES_GCM)
    packet = inner_packet(1, 81)
    for _ in range(5):
        ours.seal([packet], MTU)
    (datagram,) = ours.seal([packet, packet], MTU)
    assert datagram[:16] == struct.pack("<IHHQ", 0x2222_0002, 0, 1, 5 << 12)
    assert datagram[16:] == AESGCM(FORTH).encrypt(datagram[4:16], packet + packet, b"")


@both_suites
def test_keepalive_is_the_shortest_datagram_and_carries_nothing(suite: Suite) -> None:
    ours, theirs = pair(suite)
    (datagram,) = ours.seal([b""], MTU)
    assert len(datagram) == 32
    assert opened(theirs, datagram) == []


@both_suites
@given(sizes=st.lists(st.integers(36, 1600), max_size=30), limit=st.integers(60, 1500))
def test_packets_arrive_whole_and_in_order(suite: Suite, sizes: list[int], limit: int) -> None:
    ours, theirs = pair(suite)
    packets = [inner_packet(serial, size) for serial, size in enumerate(sizes)]
    datagrams = ours.seal(packets, limit)
    assert [packet for datagram in datagrams for packet in opened(theirs, datagram)] == packets
    longest = max([limit, *sizes])
    assert all(len(datagram) <= longest + 32 for datagram in datagrams)


def test_padding_stops_at_the_limit() -> None:
    ours, theirs = pair(WIREGUARD)
    for size, limit, padded in (
        (64, 1420, 64),
        (65, 1420, 80),
        (1419, 1420, 1420),
        (1420, 1420, 1420),
        (1500, 1420, 1500),
    ):
        (datagram,) = ours.seal([inner_packet(0, size)], limit)
        assert len(datagram) == padded + 32
        assert opened(theirs, datagram) == [inner_packet(0, size)]


def test_small_packets_share_a_record_up_to_the_limit() -> None:
    ours, theirs = pair(AES_GCM)
    packets = [inner_packet(serial, 100) for serial in range(10)]
    datagrams = ours.seal(packets, 400)
    assert [len(opened(theirs, datagram)) for datagram in datagrams] == [4, 4, 2]
    assert ours.sent == 3


def test_a_packet_that_is_not_as_long_as_it_says_travels_alone_and_harms_no_other() -> None:
    ours, theirs = pair(AES_GCM)
    good, bad = inner_packet(0, 100), inner_packet(1, 100) + b"trailing"
    datagrams = ours.seal([good, bad, good, good, b"junk", good], MTU)
    received = [theirs.open(datagram) for datagram in datagrams]
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
    (datagram,) = ours.seal([inner_packet(0, 64)], MTU)
    for place in range(4 if suite is AES_GCM else 8, len(datagram)):  # before that: which slot it is for
        for bit in range(8):
            broken = datagram[:place] + bytes((datagram[place] ^ 1 << bit,)) + datagram[place + 1 :]
            assert isinstance(theirs.open(broken), DropReason)
            assert theirs.top == -1
    assert opened(theirs, datagram) == [inner_packet(0, 64)]


@both_suites
def test_every_truncation_is_refused(suite: Suite) -> None:
    ours, theirs = pair(suite)
    (datagram,) = ours.seal([inner_packet(0, 64)], MTU)
    for length in range(len(datagram)):
        expected = DropReason.BAD_LENGTH if length < 32 else DropReason.NOT_AUTHENTIC
        assert theirs.open(datagram[:length]) is expected
    assert theirs.open(datagram + b"x") is DropReason.NOT_AUTHENTIC


@both_suites
def test_a_datagram_is_accepted_once_in_any_order_within_the_window(suite: Suite) -> None:
    ours, theirs = pair(suite)
    datagrams = [ours.seal([inner_packet(serial)], MTU)[0] for serial in range(40)]
    for datagram in (*datagrams[20:], *reversed(datagrams[:20])):
        opened(theirs, datagram)
    assert {theirs.open(datagram) for datagram in datagrams} == {DropReason.REPLAYED}
    assert theirs.top == 39


@both_suites
def test_what_lags_behind_the_window_is_a_replay(suite: Suite) -> None:
    ours, theirs = pair(suite)
    first, second, third = (ours.seal([b""], MTU)[0] for _ in range(3))
    ours._take_counters(WINDOW_SIZE - 2)
    (far,) = ours.seal([b""], MTU)
    opened(theirs, first)
    opened(theirs, far)
    assert theirs.open(second) is DropReason.REPLAYED
    assert opened(theirs, third) == []


@both_suites
def test_a_forged_counter_does_not_move_the_window(suite: Suite) -> None:
    ours, theirs = pair(suite)
    (datagram,) = ours.seal([b""], MTU)
    forged = datagram[:8] + struct.pack("<Q", 1 << 24) + datagram[16:]
    for _ in range(3):
        assert theirs.open(forged) is DropReason.NOT_AUTHENTIC
    assert opened(theirs, datagram) == []


@both_suites
def test_our_own_datagrams_come_back_as_not_authentic(suite: Suite) -> None:
    ours, _ = pair(suite)
    (datagram,) = ours.seal([inner_packet(0)], MTU)
    assert ours.open(datagram) is DropReason.NOT_AUTHENTIC


@both_suites
def test_a_key_refuses_before_its_counter_would_end_and_seals_nothing_then(suite: Suite) -> None:
    ours, theirs = pair(replace(suite, reject_after_messages=10))
    big = [inner_packet(serial, 1400) for serial in range(11)]
    assert not ours.can_seal(11)
    with pytest.raises(KeyExhausted):
        ours.seal(big, MTU)
    assert ours.sent == 0
    assert ours.can_seal(10)
    datagrams = ours.seal(big[:10], MTU)
    assert [packet for datagram in datagrams for packet in opened(theirs, datagram)] == big[:10]
    with pytest.raises(KeyExhausted):
        ours.seal([b""], MTU)


@both_suites
def test_a_counter_beyond_the_limit_is_refused_though_authentic(suite: Suite) -> None:
    ours, _ = pair(suite)
    _, theirs = pair(replace(suite, reject_after_messages=10))
    datagrams = ours.seal([inner_packet(serial, 1400) for serial in range(11)], MTU)
    assert [isinstance(theirs.open(datagram), list) for datagram in datagrams] == [True] * 10 + [False]
    assert theirs.open(datagrams[10]) is DropReason.KEY_EXPIRED


def test_limits_of_the_suites() -> None:
    assert WIREGUARD.rekey_after_messages == 2**60  # WireGuard paper, section 6.1
    assert WIREGUARD.reject_after_messages == 2**64 - 2**13 - 1
    assert AES_GCM.rekey_after_messages == 2**24
    assert AES_GCM.reject_after_messages == 2**25
    ours, _ = pair(WIREGUARD)
    ours._take_counters(WIREGUARD.reject_after_messages - 1)
    (last,) = ours.seal([b""], MTU)
    assert last[8:16] == struct.pack("<Q", 2**64 - 2**13 - 2)
    assert not ours.can_seal(1)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<IHHQ", 0x2222_0002, 1, 1, 0),  # not the first datagram of a record
        struct.pack("<IHHQ", 0x2222_0002, 0, 0, 0),  # unknown kinds
        struct.pack("<IHHQ", 0x2222_0002, 0, 2, 0),
        struct.pack("<IHHQ", 0x2222_0002, 0, 1, 1),  # a record spread over datagrams
        struct.pack("<IHHQ", 0x2222_0002, 0, 1, 1 << 11),
    ],
)
def test_records_that_we_cannot_read_are_refused_even_when_authentic(header: bytes) -> None:
    _, theirs = pair(AES_GCM)
    sealed = AESGCM(FORTH).encrypt(header[4:], inner_packet(0), None)
    assert theirs.open(header + sealed) is DropReason.MALFORMED
    assert theirs.top == -1


@both_suites
@pytest.mark.parametrize("content", [b"\x00", b"E", b"\x45" + bytes(30), b"not a packet at all, but authentic"])
def test_an_authentic_datagram_without_packets_in_it_is_malformed(suite: Suite, content: bytes) -> None:
    ours, theirs = pair(suite)
    (datagram,) = ours.seal([content], MTU)
    assert theirs.open(datagram) is DropReason.MALFORMED
    assert theirs.open(datagram) is DropReason.REPLAYED


def test_a_record_with_a_broken_packet_in_it_gives_none_of_them() -> None:
    _, theirs = pair(AES_GCM)
    header = struct.pack("<IHHQ", 0x2222_0002, 0, 1, 0)
    plaintext = inner_packet(0) + inner_packet(1)[:-1]
    assert theirs.open(header + AESGCM(FORTH).encrypt(header[4:], plaintext, None)) is DropReason.MALFORMED


@both_suites
@given(data=st.binary(max_size=200))
def test_no_bytes_raise_or_open(suite: Suite, data: bytes) -> None:
    _, theirs = pair(suite)
    assert isinstance(theirs.open(data), DropReason)
    assert theirs.top == -1


def test_framing_follows_the_suite_and_repr_shows_no_key() -> None:
    assert framing(AES_GCM) is RecordKeys
    assert framing(WIREGUARD) is WireGuardKeys
    assert repr(pair(AES_GCM)[0]) == "<RecordKeys epoch 1 index 0x11110001 sent 0>"
    assert repr(pair(WIREGUARD)[1]) == "<WireGuardKeys epoch 1 index 0x22220002 sent 0>"
