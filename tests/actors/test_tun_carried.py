"""TUN offloads between two real devices: bulk traffic that this process carries from one to the other arrives as it was."""

from __future__ import annotations

import hashlib
import os
import random
import socket
from collections.abc import Callable, Sequence

import trio
from namespaces import in_namespace
from tun_hosts import ALL, HOSTS, PORT, UDP_SEGMENT, Host, carry, cut, stream, two_hosts, whole

from holloway.protocols.packets import Packet, SuperPacket, internet_checksum


async def bulk(
    left: Host, right: Host, change: Callable[[Sequence[Packet]], list[Packet]], *, megabytes: int = 8
) -> None:
    """Bulk TCP from right to left over both families, carried with `change`; fails unless it arrives as it was."""
    data = random.Random(5).randbytes(megabytes << 20)
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry, left.tun, right.tun, change)
            nursery.start_soon(carry, right.tun, left.tun, change)
            for version in (4, 6):
                assert await stream(left, right, version, data) == hashlib.sha256(data).hexdigest()
            nursery.cancel_scope.cancel()


@in_namespace
async def test_super_packets_are_carried_whole_in_both_families() -> None:
    left, right = two_hosts()
    sizes: list[int] = []

    def watched(packets: Sequence[Packet]) -> list[Packet]:
        sizes.extend(len(packet.data) for packet in packets if isinstance(packet, SuperPacket))
        return whole(packets)

    await bulk(left, right, watched)
    assert max(sizes) > 30_000
    assert sum(sizes) > 14 << 20, "most came in super-packets"
    assert left.tun.offloads == right.tun.offloads == ALL
    assert not left.tun.drops + right.tun.drops
    assert left.checksum_errors() == right.checksum_errors() == 0
    left.close()
    right.close()


@in_namespace
async def test_segments_are_joined_for_the_host() -> None:
    left, right = two_hosts()
    written: list[int] = []
    writev = os.writev

    def counted(descriptor: int, parts: Sequence[bytes]) -> int:
        written.append(sum(map(len, parts)))
        return writev(descriptor, parts)

    os.writev = counted  # type: ignore[assignment]
    await bulk(left, right, cut)
    os.writev = writev
    assert max(written) > 30_000
    assert sum(size for size in written if size > 4000) > 14 << 20, "most was written joined"
    assert not left.tun.drops + right.tun.drops
    assert left.checksum_errors() == right.checksum_errors() == 0
    left.close()
    right.close()


@in_namespace
async def test_without_super_packets_in_they_still_go_out() -> None:
    left, right = two_hosts(receive_super=False)
    lengths: set[int] = set()
    written: list[int] = []
    writev = os.writev

    def counted(descriptor: int, parts: Sequence[bytes]) -> int:
        written.append(sum(map(len, parts)))
        return writev(descriptor, parts)

    def watched(packets: Sequence[Packet]) -> list[Packet]:
        lengths.update(len(packet) for packet in packets if isinstance(packet, bytes))
        assert not any(isinstance(packet, SuperPacket) for packet in packets)
        return whole(packets)

    os.writev = counted  # type: ignore[assignment]
    await bulk(left, right, watched)
    os.writev = writev
    assert max(lengths) == 1420
    assert max(written) > 10_000
    assert left.tun.offloads == ()
    assert left.checksum_errors() == right.checksum_errors() == 0
    left.close()
    right.close()


@in_namespace
async def test_with_offloads_off_everything_is_one_packet() -> None:
    left, right = two_hosts(offloads=False)
    lengths: set[int] = set()

    def watched(packets: Sequence[Packet]) -> list[Packet]:
        lengths.update(len(packet) for packet in packets if isinstance(packet, bytes))
        assert not any(isinstance(packet, SuperPacket) for packet in packets)
        return whole(packets)

    await bulk(left, right, watched, megabytes=2)
    assert max(lengths) == 1420
    assert left.tun.offloads == ()
    assert left.checksum_errors() == right.checksum_errors() == 0
    left.close()
    right.close()


async def _marks(change: Callable[[Sequence[Packet]], list[Packet]]) -> None:
    left, right = two_hosts()
    seen = {"ECE": 0, "CWR": 0}
    count = 0

    def marked(packets: Sequence[Packet]) -> list[Packet]:
        nonlocal count
        result: list[Packet] = []
        for packet in change(packets):
            data = packet.data if isinstance(packet, SuperPacket) else packet
            if data[0] >> 4 == 4 and data[9] == 6:
                seen["ECE"] += data[33] & 0x52 == 0x50
                seen["CWR"] += data[33] & 0x82 == 0x80
                if data[1] & 3 == 2 and len(data) > 500:
                    count += 1
                    if count % 20 == 0:
                        data = with_congestion_mark(data)
            result.append(SuperPacket(data, packet.segment_size) if isinstance(packet, SuperPacket) else data)
        return result

    await bulk(left, right, marked)
    assert seen["ECE"], "the mark came through"
    assert seen["CWR"], "so did the answer to it"
    assert left.checksum_errors() == right.checksum_errors() == 0
    left.close()
    right.close()


def with_congestion_mark(data: bytes) -> bytes:
    header = bytearray(data[:20])
    header[1] |= 3
    header[10:12] = bytes(2)
    header[10:12] = internet_checksum(header).to_bytes(2, "big")
    return bytes(header) + data[20:]


@in_namespace
async def test_congestion_marks_reach_the_other_end() -> None:
    await _marks(whole)


@in_namespace
async def test_congestion_marks_reach_the_other_end_in_joined_segments() -> None:
    await _marks(cut)


@in_namespace
async def test_a_corrupt_segment_is_found_by_the_host_although_it_was_joined() -> None:
    left, right = two_hosts()
    left_to_corrupt = 3

    def corrupting(packets: Sequence[Packet]) -> list[Packet]:
        nonlocal left_to_corrupt
        result = cut(packets)
        if left_to_corrupt and len(result) > 10:
            packet = result[7]
            assert isinstance(packet, bytes)
            if len(packet) == 1420:
                left_to_corrupt -= 1
                result[7] = packet[:-1] + bytes([packet[-1] ^ 0x55])
        return result

    await bulk(left, right, corrupting)
    assert left_to_corrupt == 0
    assert left.checksum_errors() + right.checksum_errors() == 3
    left.close()
    right.close()


@in_namespace
async def test_datagrams_of_one_send_are_carried_as_one() -> None:
    left, right = two_hosts()
    count, size = 40, 1000
    for version in (4, 6):
        right.datagrams[version].setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        data = random.Random(version).randbytes(count * size - 300)
        right.datagrams[version].sendto(data, (HOSTS[0][version], PORT))
        (packet,) = await right.tun.receive()
        assert isinstance(packet, SuperPacket)
        assert packet.segment_size == size
        for carried in ([packet], packet.segments()):
            left.tun.send(carried)
            left.datagrams[version].settimeout(2)
            arrivals = [left.datagrams[version].recv(2000) for _ in range(count)]
            assert arrivals == [data[at : at + size] for at in range(0, len(data), size)]
    assert not left.tun.drops
    assert left.checksum_errors() == 0
    left.close()
    right.close()
