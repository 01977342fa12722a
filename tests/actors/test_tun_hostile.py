"""Hostile super-packets and virtio headers: nothing raises, and out of a device comes nothing that did not go in.

Bytes come from a peer that is authenticated but hostile, or from a device that lies. What is made of them must be a cut of
them: payloads pieces of theirs, in order and none twice, the addresses theirs, the lengths true.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from namespaces import in_namespace
from spoilt_packets import (
    Sent,
    data_of,
    has_right_sum,
    headers,
    hostile_super_packet,
    random_super_packet,
    segments_of,
    spoilt,
    virtio_header,
)
from tun_hosts import ip

from holloway.actors.tun import KernelTun
from holloway.actors.tun_offload import arrived
from holloway.actors.tun_opening import open_tun
from holloway.protocols.coalescing import Checksums, coalesce
from holloway.protocols.packets import MAX_SEGMENTS, Packet, SuperPacket, source, total_length, transport
from holloway.protocols.record_wire import MAX_DATAGRAMS, RecordKind
from holloway.protocols.records import packets_of, plan, super_packets_of
from holloway.protocols.virtio import VIRTIO_HEADER_BYTES, OffloadedPacket, from_device, parse

SEEDS = st.integers(0, 2**32 - 1).map(random.Random)
KINDS = (RecordKind.PACKETS, RecordKind.UNFINISHED, RecordKind.SUPER_PACKETS)
ROUNDS, PER_ROUND = 20, 4
SEED = 20
LEAST = 1000
QUIET_S = 0.005  # the device is empty when it gives nothing for so long
DROPS = {"tun_malformed", "tun_einval", "tun_enobufs", "tun_eio"}


def payload(packet: bytes) -> bytes:
    found = headers(packet)
    assert found is not None
    return packet[found.payload_at :]


def assert_is_cut_of(segments: list[bytes], whole: bytes, size: int) -> None:
    """Nothing, or all of `whole` in order, in packets of `size` bytes of payload with its addresses and ports."""
    if not segments:
        return
    assert len(segments) <= MAX_SEGMENTS
    of = headers(whole)
    assert of is not None
    for segment in segments:
        found = headers(segment)
        assert found == of
        assert len(segment) - found.payload_at <= size
        assert has_right_sum(segment)
    assert b"".join(map(payload, segments)) == whole[of.payload_at :]


@settings(max_examples=150)
@given(SEEDS)
def test_segments_are_a_cut_of_the_super_packet_or_nothing(rng: random.Random) -> None:
    packet = hostile_super_packet(rng)
    assert_is_cut_of(packet.segments(), data_of(packet), packet.segment_size)


@pytest.mark.parametrize("seed", range(20))
def test_a_sound_super_packet_is_cut_and_not_thrown_away(seed: int) -> None:
    """What keeps the tests here from being content with nothing."""
    packet = random_super_packet(random.Random(seed))
    segments = packet.segments()
    assert segments
    assert_is_cut_of(segments, data_of(packet), packet.segment_size)


@settings(max_examples=200)
@given(SEEDS, st.sampled_from([from_device, arrived]))
def test_what_a_lying_device_gives_is_its_packet_or_nothing(rng: random.Random, read: object) -> None:
    assert callable(read)
    packet = hostile_super_packet(rng)
    given_data = virtio_header(rng, data_of(packet), packet.segment_size) + data_of(packet)
    came = read(given_data)
    body = given_data[VIRTIO_HEADER_BYTES:]
    if isinstance(came, SuperPacket):
        assert came.data == body
        assert 0 < came.segment_size <= 0xFFFF
        assert_is_cut_of(came.segments(), body, came.segment_size)
    elif came is not None:
        assert len(came) == len(body)
        changed = [at for at, (ours, theirs) in enumerate(zip(came, body, strict=True)) if ours != theirs]
        assert not changed or changed[-1] - changed[0] <= 1, "a checksum is two bytes in one place"


def hostile_plaintext(rng: random.Random) -> tuple[bytes, int]:
    """A plaintext for a record, and of how many datagrams: planned here and spoilt, or put together from anything."""
    supers = [hostile_super_packet(rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.5:
        parts = [rng.choice((b"", packet.segment_size.to_bytes(2, "little"))) + data_of(packet) for packet in supers]
        return b"".join(parts)[:70_000], rng.randint(1, MAX_DATAGRAMS)
    records, _ = plan([*supers, random_super_packet(rng)], 1400, rng.choice((1, 16, 64)))
    record = rng.choice(records)
    return (spoilt(rng, record.plaintext) if rng.random() < 0.7 else record.plaintext), record.datagrams


def unpack(kind: RecordKind, plaintext: bytes, datagrams: int) -> list[Packet] | None:
    """The packets of a record, ready for a device; None when it is malformed."""
    if kind is RecordKind.SUPER_PACKETS:
        supers = super_packets_of(plaintext, datagrams)
        return None if supers is None else list(supers)
    packets = packets_of(plaintext, datagrams)
    if packets is None:
        return None
    return coalesce(packets, Checksums.GOOD) if kind is RecordKind.UNFINISHED else list(packets)


@settings(max_examples=120)
@given(SEEDS, st.sampled_from(KINDS))
def test_records_of_every_kind_give_what_they_hold_or_nothing(rng: random.Random, kind: RecordKind) -> None:
    plaintext, datagrams = hostile_plaintext(rng)
    packets = unpack(kind, plaintext, datagrams)
    if packets is None:
        return
    assert sum(len(payload_or_all(packet)) for packet in packets) <= len(plaintext)
    for packet in packets:
        assert_is_fit_for_a_device(packet)
        # Joined packets have their payload at several places of the plaintext, others at one.
        for piece in segments_of(packet) if kind is RecordKind.UNFINISHED else [data_of(packet)]:
            assert total_length(piece) == len(piece)
            assert payload_or_all(piece) in plaintext
            assert (piece[12:20] if piece[0] >> 4 == 4 else piece[8:40]) in plaintext


def payload_or_all(packet: Packet) -> bytes:
    data = data_of(packet)
    found = headers(data)
    return data[found.payload_at :] if found else data


def assert_is_fit_for_a_device(packet: Packet) -> None:
    """A packet with a virtio header names places that are in it, and can be cut by us, too."""
    if not isinstance(packet, OffloadedPacket):
        return
    virtio, found = parse(packet.virtio), headers(data_of(packet))
    assert virtio is not None
    assert found is not None
    if virtio.segment_size:
        assert virtio.header_bytes == found.payload_at
    assert virtio.header_bytes <= len(packet.data)
    if virtio.needs_checksum and found.protocol:
        assert virtio.checksum_start == found.transport_at
        assert virtio.checksum_start + virtio.checksum_offset + 2 <= found.payload_at
    assert virtio.checksum_start + virtio.checksum_offset + 2 <= len(packet.data)
    segments = packet.segments()
    assert segments or not found.is_sound, "only what has no sound transport header cannot be cut by us"
    assert_is_cut_of(segments, data_of(packet), virtio.segment_size or len(packet.data))


@settings(max_examples=100)
@given(SEEDS, st.sampled_from(Checksums))
def test_joining_loses_doubles_and_invents_nothing(rng: random.Random, checksums: Checksums) -> None:
    packets: list[bytes] = []
    for _ in range(rng.randint(1, 3)):
        cut = random_super_packet(rng).segments()
        at = rng.randrange(len(cut))
        packets += cut[at : at + 30]
    for _ in range(rng.randint(0, 6)):
        at = rng.randrange(len(packets))
        packets[at] = spoilt(rng, packets[at])
    if rng.random() < 0.5:
        packets[-1:] = rng.sample(packets, len(packets))
    joined = coalesce(packets, checksums)
    for packet in joined:
        if checksums is not Checksums.LET_KERNEL_VERIFY:
            assert_is_fit_for_a_device(packet)
    seen = [segment for packet in joined for segment in segments_of(packet) or [data_of(packet)]]
    assert sorted(map(essence, seen)) == sorted(map(essence, packets))


def essence(packet: bytes) -> tuple[bytes, bytes, bytes]:
    """Addresses, ports and payload; all of a packet that is not whole."""
    found = headers(packet)
    if found is None:
        return b"", b"", packet
    return found.addresses, found.ports, packet[found.payload_at :]


def router() -> tuple[KernelTun, KernelTun]:
    """This host sends on what is written to the first device, and the second gives it as the kernel has cut it."""
    entry, way_out = open_tun("hw0", 1420), open_tun("hw1", 1420, offloads=False)
    for name, network in (("hw0", 0), ("hw1", 1)):
        ip(f"link set {name} addrgenmode none")
        ip(f"link set {name} mtu 65535 multicast off txqueuelen 20000 up")
        ip(f"address add 172.31.{network}.1/24 dev {name}")
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", setting).write_text("1")
    for setting in ("all", "hw0", "hw1"):
        Path("/proc/sys/net/ipv4/conf", setting, "rp_filter").write_text("0")
    ip("route add 10.0.0.0/8 dev hw1")
    ip("-6 route add default dev hw1")
    return entry, way_out


async def emptied(device: KernelTun) -> list[bytes]:
    came: list[bytes] = []
    while True:
        with trio.move_on_after(QUIET_S) as waiting:
            for packet in await device.receive():
                assert isinstance(packet, bytes)
                came.append(packet)
        if waiting.cancelled_caught:
            return [packet for packet in came if not is_of_the_host(packet)]


def is_of_the_host(packet: bytes) -> bool:
    """What the kernel itself says: ICMP about the rest, and the neighbourly talk of IPv6."""
    address = source(packet)
    return address is not None and (address[:2] in (b"\xac\x1f", b"\xfe\x80") or not any(address[:-1]))


def hostile_batch(rng: random.Random) -> tuple[list[Packet], list[bytes]]:
    """Packets for a device, made of hostile bytes by everybody who makes some; and those bytes, as packets."""
    batch: list[Packet] = []
    bytes_of: list[bytes] = []
    for _ in range(PER_ROUND):
        packet = hostile_super_packet(rng)
        if rng.random() < 0.5:
            packet = SuperPacket(packet.data, rng.choice((536, 1208, 1368)))
        data = data_of(packet)
        bytes_of.append(data)
        batch.append(packet)
        read = from_device(virtio_header(rng, data, packet.segment_size) + data)
        prefixed = packet.segment_size.to_bytes(2, "little") + data
        unpacked = unpack(RecordKind.SUPER_PACKETS, prefixed, 64) or []
        batch += [made for made in (read, *unpacked) if isinstance(made, SuperPacket)]
    return batch, bytes_of


@in_namespace
async def test_hostile_super_packets_leave_a_device_as_cuts_of_themselves_or_not_at_all() -> None:
    rng = random.Random(SEED)
    entry, way_out = router()
    count = 0
    for _ in range(ROUNDS):
        batch, bytes_of = hostile_batch(rng)
        sent = Sent(bytes_of)
        entry.send(batch)
        for packet in await emptied(way_out):
            assert total_length(packet) == len(packet)
            assert has_right_sum(packet), packet[:60].hex()
            assert sent.holds(packet), packet[:60].hex()
            count += 1
    assert count > LEAST, "enough came out"
    assert set(entry.drops) <= DROPS, entry.drops
    await assert_still_works(rng, entry, way_out)
    entry.close()
    way_out.close()


@in_namespace
async def test_hostile_packets_and_batches_to_be_joined_leave_a_device_as_they_came_or_not_at_all() -> None:
    rng = random.Random(SEED)
    entry, way_out = router()
    # Its own addresses: those that all packets go to, so that they are joined as if they ended here.
    entry.set_local([bytes((10, 0, 0, 2)), b"\xfc" * 16])
    count = 0
    for _ in range(ROUNDS):
        packets: list[bytes] = []
        for _ in range(3):
            cut = random_super_packet(rng, most=20_000).segments()
            packets += [spoilt(rng, packet) if rng.random() < 0.1 else packet for packet in cut]
        sent = Sent(packets)
        record = b"".join(packet for packet in packets if total_length(packet) == len(packet))
        unpacked = unpack(RecordKind.UNFINISHED, record, 64)
        assert unpacked is not None
        entry.send([*packets])
        entry.send(unpacked)
        for packet in await emptied(way_out):
            assert sent.holds(packet), packet[:60].hex()
            count += 1
    assert count > LEAST, "enough came out"
    assert set(entry.drops) <= DROPS, entry.drops
    await assert_still_works(rng, entry, way_out)
    entry.close()
    way_out.close()


async def assert_still_works(rng: random.Random, entry: KernelTun, way_out: KernelTun) -> None:
    """Sound super-packets pass whole, after all that."""
    for _ in range(20):
        packet = random_super_packet(rng)
        assert transport(packet.data) is not None
        entry.send([packet])
        came = await emptied(way_out)
        assert b"".join(map(payload, came)) == payload(data_of(packet))
        assert len(came) == len(packet.segments())
