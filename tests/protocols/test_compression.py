"""Compressed records: what shrinks is packed, what does not costs little, and no bomb goes off."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import World
from super_packets import super_packet

from holloway.actors.pair_terms import Lz4
from holloway.protocols.arrivals import lone
from holloway.protocols.compression import (
    MAX_UNPACKED_BYTES,
    MIN_PACKED_BYTES,
    MOST_EXPANSION,
    MOST_SKIPPED,
    Codec,
    Packer,
    Packing,
)
from holloway.protocols.events import DropReason
from holloway.protocols.noise import TAG_BYTES
from holloway.protocols.offers import ALL_TERMS, SEALED, Terms
from holloway.protocols.packets import Packet, SuperPacket, whole_packets
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_wire import PACKED_MARK, Record, RecordKind
from holloway.protocols.runs import flatten
from holloway.simulations.deflate import Deflate

lz4_block = pytest.importorskip("lz4.block", reason="pip install 'holloway[compression]'")

PIECE = 1400 + TAG_BYTES
PACKETS = RecordKind.PACKETS
NOISE = random.Random(5).randbytes(65_000)
CODECS: dict[str, Codec] = {"lz4": Lz4(lz4_block), "deflate": Deflate()}
codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def packed(codec: Codec, plaintext: bytes, datagrams: int = 46) -> tuple[Record, Packer, Packing]:
    packing = Packing()
    packer = Packer(codec, packing)
    return packer.pack(Record(PACKETS, plaintext, datagrams), PIECE), packer, packing


@codecs
@pytest.mark.parametrize("size", [MIN_PACKED_BYTES, 1400, 20_000, MAX_UNPACKED_BYTES])
def test_what_shrinks_goes_in_fewer_datagrams_and_comes_out_again(codec: Codec, size: int) -> None:
    plaintext = (b"the quick brown fox jumps over the lazy dog %d" * 2000)[:size]
    record, packer, packing = packed(codec, plaintext)
    assert record.kind == PACKETS | PACKED_MARK
    assert record.datagrams == -(-(len(record.plaintext) + TAG_BYTES) // PIECE)
    assert (len(record.plaintext) + TAG_BYTES) % record.datagrams == 0
    assert len(record.plaintext) <= size * 7 // 8
    assert packer.unpack(record.plaintext) == plaintext
    assert packing == Packing(size, len(record.plaintext), 0, size, len(record.plaintext))


@codecs
def test_what_compresses_too_well_is_padded_to_what_a_receiver_takes(codec: Codec) -> None:
    """Table C, row 30: zeros go in a sixteenth."""
    record, packer, _ = packed(codec, bytes(64_000))
    assert 64_000 / MOST_EXPANSION <= len(record.plaintext) < 64_000 / MOST_EXPANSION + 64
    assert packer.unpack(record.plaintext) == bytes(64_000)


@codecs
def test_what_does_not_shrink_goes_as_it_is_and_is_hardly_tried(codec: Codec) -> None:
    """Table C, row 30: random bytes cost a try in 65 records in the long run, and one that shrinks ends that."""
    tries: list[int] = []

    class Counted:
        def compress(self, data: bytes) -> bytes:
            tries.append(len(data))
            return codec.compress(data)

        def decompress(self, data: memoryview, length: int) -> bytes | None:
            return codec.decompress(data, length)

    packing = Packing()
    packer = Packer(Counted(), packing)
    noise = Record(PACKETS, NOISE[:1400], 1)
    for _ in range(1000):
        assert packer.pack(noise, PIECE) is noise
    assert len(tries) <= 8 + 1000 // (MOST_SKIPPED + 1)
    assert packing == Packing(sent_skipped=1_400_000)
    zeros = Record(PACKETS, bytes(1400), 1)
    skipped = 0
    while packer.pack(zeros, PIECE) is zeros:
        skipped += 1
    assert skipped <= MOST_SKIPPED
    tries.clear()
    packer.pack(noise, PIECE)
    packer.pack(noise, PIECE)
    packer.pack(noise, PIECE)
    assert len(tries) == 2, "the pauses begin anew"


def test_what_is_short_is_not_tried() -> None:
    record, _, packing = packed(CODECS["lz4"], bytes(MIN_PACKED_BYTES - 1), 1)
    assert (record.kind, packing) == (PACKETS, Packing())


@codecs
@pytest.mark.parametrize(
    ("claimed", "zeros", "block"),
    [
        (64_000, 0, None),  # more than sixteen times what it came in
        (MAX_UNPACKED_BYTES + 1, 0, bytes(MAX_UNPACKED_BYTES)),
        (0xFFFF_FFFF, 0, None),
        (999, 0, None),
        (1001, 0, None),
        (1000, 65_535, None),
        (1000, 1, None),
    ],
)
def test_no_more_comes_out_than_may_and_nothing_but_what_was_said(
    codec: Codec, claimed: int, zeros: int, block: bytes | None
) -> None:
    if block is None:
        block = codec.compress(bytes(64_000 if claimed == 64_000 else 1000))
    _, packer, packing = packed(codec, b"")
    assert packer.unpack(struct.pack("<IH", claimed, zeros) + block) is None
    assert packing == Packing()


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.binary(max_size=300), st.sampled_from(sorted(CODECS)))
def test_any_bytes_are_unpacked_or_refused(junk: bytes, name: str) -> None:
    _, packer, _ = packed(CODECS[name], b"")
    for plaintext in (junk, struct.pack("<IH", len(junk) * 4, 0) + junk):
        found = packer.unpack(plaintext)
        assert found is None or len(found) <= MOST_EXPANSION * len(plaintext)


# In sessions.


def batch() -> list[Packet]:
    """Every kind of packet, all of which compress."""
    text = b"GET /index.html HTTP/1.1\r\nHost: example.org\r\n\r\n" * 40
    lone = [super_packet(1000, 0xFFFE, tcp=False, serial=n) for n in range(20)]
    udp = [SuperPacket(bytes(each.data[:28]) + text[:1000], each.segment_size) for each in lone]
    big = super_packet(60_000, 1368)
    return [
        SuperPacket(bytes(big.data[:52]) + (text * 40)[:60_000], 1368),
        *udp,
        *(SuperPacket(bytes(super_packet(4000, 1368, serial=n).data[:52]) + (text * 4)[:4000], 1368) for n in range(3)),
    ]


@codecs
@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_packets_of_every_kind_come_out_of_compressed_records(codec: Codec, loss: float) -> None:
    world = World(terms=(Terms.LZ4, ALL_TERMS), codec=codec, seed=3)
    world.send(world.a)
    world.run(2)
    world.network.loss, world.network.jitter_s = loss, 0.01
    packets = batch()
    wanted = len(whole_packets(packets))
    for _ in range(4):
        world.send_segments(world.a, packets)
        world.run(1)
    packing = world.a.session.packing
    assert packing.sent_packed < packing.sent_plain / 3
    assert max(len(datagram) for datagram, _, _ in world.captured) <= 1452
    arrived = len(world.segments_delivered["b"])
    assert arrived == 4 * wanted if not loss else arrived > 2 * wanted
    if not loss:
        theirs = world.b.session.packing
        assert (theirs.received_plain, theirs.received_packed) == (packing.sent_plain, packing.sent_packed)
        assert not world.b.session.drops


@codecs
def test_without_terms_nothing_is_compressed(codec: Codec) -> None:
    world = World(terms=(Terms.LZ4, SEALED), codec=codec)
    world.send(world.a)
    world.run(1)
    world.send_segments(world.a, batch())
    world.run(1)
    assert world.a.session.packing == Packing()
    assert all(datagram[7] == 0 for datagram, _, _ in world.captured if int.from_bytes(datagram[:4], "little") > 255)


@codecs
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_a_bomb_of_an_authentic_peer_is_dropped_and_counted(codec: Codec, kind: int) -> None:
    """Table C, row 30."""
    world = World(terms=(Terms.LZ4, Terms.LZ4), codec=codec)
    world.send(world.a)
    world.run(1)
    keys = world.a.session._ring.current
    assert isinstance(keys, RecordKeys)
    bomb = struct.pack("<IH", 65_000, 0) + codec.compress(bytes(65_000))
    before = len(world.delivered["b"])
    run = keys._seal_alone(kind | PACKED_MARK, bomb)
    (datagram,) = flatten([run])
    world.do(world.b, lambda session: session.receive([lone(datagram, world.a.address)], world.now))
    assert world.b.session.drops == {DropReason.UNPACKING_REFUSED: 1}
    assert len(world.delivered["b"]) == before
    world.send(world.a)
    world.run(1)
    assert len(world.delivered["b"]) == before + 1, "the session goes on"


@pytest.mark.parametrize("kind", [RecordKind.REPORT, RecordKind.PROBE, RecordKind.PROBE_ACK])
def test_reports_and_probes_are_never_compressed(kind: RecordKind) -> None:
    world = World(terms=(Terms.LZ4, Terms.LZ4), codec=CODECS["lz4"])
    world.send(world.a)
    world.run(1)
    keys = world.a.session._ring.current
    assert isinstance(keys, RecordKeys)
    (datagram,) = flatten([keys._seal_alone(kind | PACKED_MARK, bytes(200))])
    world.do(world.b, lambda session: session.receive([lone(datagram, world.a.address)], world.now))
    assert world.b.session.drops == {DropReason.MALFORMED: 1}
