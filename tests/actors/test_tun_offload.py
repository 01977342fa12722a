"""TUN offloads against a real device: what is agreed on, what is refused, what is joined."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from ipaddress import ip_interface
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from namespaces import in_namespace
from super_packets import super_packet
from tun_hosts import ALL, FAMILIES, HOSTS, PORT, SO_SNDBUFFORCE, UDP_SEGMENT, configure, device, ip

from holloway.actors import tun, tun_offload, tun_opening
from holloway.actors.config import InterfaceConfig
from holloway.actors.local_addresses import LocalAddresses
from holloway.actors.router import Router
from holloway.actors.tun import KernelTun
from holloway.actors.tun_offload import Joiner, arrived, pieces
from holloway.actors.tun_opening import open_tun
from holloway.actors.tun_reader import tun_reader
from holloway.protocols.coalescing import Checksums, coalesce
from holloway.protocols.packets import (
    IPV4_HEADER_BYTES,
    Packet,
    SuperPacket,
    UnfinishedPacket,
    internet_checksum,
    layout_of,
    transport,
    whole_packets,
)
from holloway.protocols.virtio import UDP_CHECKSUM_AT, OffloadedPacket, from_device, offloaded, parse
from holloway.simulations.ports import SimulatedTun


@in_namespace
async def test_a_receive_takes_a_budget_of_bytes_then_lets_others_run() -> None:
    tun0 = device(0)
    size, count = 1300 * 40, 20
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1300)
        for _ in range(count):
            sender.sendto(bytes(size), ("10.9.0.2", 7))
    batches = [await tun0.receive()]
    while True:
        while (packet := tun0.more()) is not None:
            batches[-1].append(packet)
        if sum(map(len, batches)) >= count:
            break
        with trio.testing.assert_checkpoints():
            batches.append(await tun0.receive())
    for batch in batches:
        taken = sum(len(packet.data) for packet in batch if isinstance(packet, SuperPacket))
        assert taken < tun.RECEIVE_BUDGET_BYTES + size + 100
    assert len(batches) == -(-count // -(-tun.RECEIVE_BUDGET_BYTES // (size + 28)))
    tun0.close()


@in_namespace
async def test_reads_that_are_all_malformed_are_counted_and_nothing_else() -> None:
    tun0 = device(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(tun.RECEIVE_BUDGET + tun.FEW_PACKETS + 1):
            sender.sendto(b"x", ("10.9.0.2", 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tun, "arrived", lambda _: None)  # whatever a kernel may come to give
        assert tun0.take() == tun0._drain(tun.RECEIVE_BUDGET) == tun0.take() == []
    assert tun0.drops == {"tun_malformed": tun.RECEIVE_BUDGET + tun.FEW_PACKETS + 1}
    tun0.close()


@in_namespace
async def test_no_more_short_packets_are_asked_for_than_a_receive_takes() -> None:
    tun0 = device(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1300)
        sender.sendto(bytes(1300 * 40), ("10.9.0.2", 7))
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        for _ in range(3 * tun.RECEIVE_BUDGET):
            sender.sendto(b"x", ("10.9.0.2", 7))
    (first,) = await tun0.receive()
    assert isinstance(first, SuperPacket)
    following = 0
    while tun0.more() is not None:
        following += 1
    assert 50 < following <= tun.RECEIVE_BUDGET
    tun0.close()


TUNGETVNETLE = 0x800454DD


def finished(packet: bytes) -> bool:
    """Whether the transport checksum is right."""
    found = transport(packet)
    assert found is not None
    protocol, at = found
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return not internet_checksum(packet[at:], int.from_bytes(addresses, "big") + protocol + len(packet) - at)


@in_namespace
async def test_a_lone_datagram_of_udp_comes_with_its_checksum_unfinished() -> None:
    tun0 = device(0)
    assert tun0.offloads == ALL
    for version in (4, 6):
        for payload in (b"", b"odd", bytes(1000), b"\xff" * 1001):
            with socket.socket(FAMILIES[version], socket.SOCK_DGRAM) as sender:
                sender.sendto(payload, (HOSTS[1][version], 7))
            (packet,) = await tun0.receive()
            assert isinstance(packet, UnfinishedPacket)
            assert packet.endswith(payload)
            assert not finished(packet)
            assert finished(packet.finished())
    tun0.close()


REAL_IOCTL = fcntl.ioctl


@in_namespace
async def test_offloads_are_stepped_down_to_what_the_kernel_grants() -> None:
    for refused, granted in ((0, ALL), (0x60, ALL[:3]), (0x06, ALL[:1]), (0x01, ())):

        def ioctl(descriptor: int, request: int, argument: bytes | int, refused: int = refused) -> int | bytes:
            if request == tun_offload.TUNSETOFFLOAD and int(argument) & refused:
                raise OSError(22, "EINVAL")
            return REAL_IOCTL(descriptor, request, argument)

        fcntl.ioctl = ioctl  # type: ignore[assignment]
        tun0 = device(0)
        fcntl.ioctl = REAL_IOCTL
        assert tun0.offloads == granted
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"whole", ("10.9.0.2", 7))
        (packet,) = whole_packets(await tun0.receive())
        assert packet.endswith(b"whole")
        assert finished(packet)
        tun0.close()


@in_namespace
async def test_a_kernel_without_virtio_headers_gives_a_plain_device() -> None:
    def ioctl(descriptor: int, request: int, argument: bytes | int) -> int | bytes:
        if request == tun_opening.TUNSETIFF and struct.unpack("16xH22x", argument)[0] & 0x4000:  # type: ignore[arg-type]
            raise OSError(22, "EINVAL")
        if request == tun_offload.TUNSETOFFLOAD:
            raise OSError(25, "ENOTTY")
        return REAL_IOCTL(descriptor, request, argument)

    fcntl.ioctl = ioctl  # type: ignore[assignment]
    tun0 = device(0)
    fcntl.ioctl = REAL_IOCTL
    assert tun0.offloads == ()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("10.9.0.1", PORT))
        receiver.settimeout(2)
        receiver.sendto(bytes(2000), ("10.9.0.2", 7))
        packets = await tun0.receive()
        assert [len(packet) for packet in packets if isinstance(packet, bytes)] == [1420, 628]
        tun0.send([SuperPacket(to_us(b"a" * 1000 + b"b" * 10), 1000)])
        assert [receiver.recv(2000) for _ in range(2)] == [b"a" * 1000, b"b" * 10]
    assert not tun0.drops
    tun0.close()


def to_us(payload: bytes) -> bytes:
    """A datagram from the far end, its UDP checksum left to whoever cuts it."""
    header = struct.pack(">HHHH", 4001, PORT, 8 + len(payload), 0)
    theirs, ours = socket.inet_aton("10.9.0.2"), socket.inet_aton("10.9.0.1")
    ip_header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0, theirs, ours)
    return ip_header[:10] + internet_checksum(ip_header).to_bytes(2, "big") + ip_header[12:] + header + payload


async def whole_datagram(tun0: KernelTun) -> bytes:
    """A packet of the host. A persistent device notices some time after it was opened that it can send."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, trio.fail_after(10):
        while True:
            sender.sendto(b"whole", ("10.9.0.2", 7))
            with trio.move_on_after(0.05):
                return whole_packets(await tun0.receive())[0]


@in_namespace
async def test_settings_that_the_last_user_of_a_persistent_device_left_are_replaced() -> None:
    ip("tuntap add hw0 mode tun")
    descriptor = os.open(tun_opening.CLONE_DEVICE, os.O_RDWR)
    fcntl.ioctl(descriptor, tun_opening.TUNSETIFF, tun_offload.IFREQ.pack(b"hw0", 0x5001))
    fcntl.ioctl(descriptor, tun_offload.TUNSETVNETHDRSZ, struct.pack("=i", 12))
    fcntl.ioctl(descriptor, tun_offload.TUNSETOFFLOAD, 0x0F)
    os.close(descriptor)
    configure(0)
    for offloads, expected in ((True, ALL), (False, ()), (True, ALL)):
        tun0 = open_tun("hw0", 1420, offloads=offloads)
        assert tun0.offloads == expected
        (is_little,) = struct.unpack("=i", fcntl.ioctl(tun0._descriptor, TUNGETVNETLE, bytes(4)))
        assert is_little == (sys.byteorder == "little")
        packet = await whole_datagram(tun0)
        assert packet.endswith(b"whole")
        assert finished(packet)
        tun0.close()


@in_namespace
async def test_a_descriptor_that_somebody_else_attached_is_used_as_it_is() -> None:
    for flags, expected in ((0x1001, ()), (0x5001, ALL)):
        descriptor = os.open(tun_opening.CLONE_DEVICE, os.O_RDWR)
        fcntl.ioctl(descriptor, tun_opening.TUNSETIFF, tun_offload.IFREQ.pack(b"hw0", flags))
        tun0 = KernelTun(descriptor, "hw0", 1420)
        configure(0)
        assert tun0.offloads == expected
        tun0.set_local([socket.inet_aton("10.9.0.1")])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"whole", ("10.9.0.2", 7))
        (packet,) = whole_packets(await tun0.receive())
        assert packet.endswith(b"whole")
        tun0.close()
    descriptor = os.open(tun_opening.CLONE_DEVICE, os.O_RDWR)
    with pytest.raises(OSError, match=r"descriptor in bad state"):
        KernelTun(descriptor, "hw0", 1420)
    os.close(descriptor)


@in_namespace
async def test_a_super_packet_that_the_device_refuses_is_written_as_its_segments() -> None:
    tun0 = device(0)
    writev = os.writev
    asked: list[int] = []

    def refusing(descriptor: int, parts: Sequence[bytes]) -> int:
        asked.append(len(parts[1]))
        if parts[0][1]:
            raise OSError(22, "EINVAL")
        return writev(descriptor, parts)

    os.writev = refusing  # type: ignore[assignment]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("10.9.0.1", PORT))
        receiver.settimeout(2)
        tun0.send([SuperPacket(to_us(b"a" * 1000 + b"b" * 10), 1000)])
        assert [receiver.recv(2000) for _ in range(2)] == [b"a" * 1000, b"b" * 10]
    os.writev = writev
    assert asked == [1038, 1028, 38]
    assert not tun0.drops
    ip("link set hw0 down")
    tun0.send([SuperPacket(to_us(b"a" * 1000 + b"b" * 10), 1000)])
    assert tun0.drops == {"tun_eio": 1}
    tun0.close()


@in_namespace
async def test_what_contradicts_its_virtio_header_is_counted_and_the_rest_comes() -> None:
    tun0 = device(0)
    good = to_us(b"kept")
    reads = [b"\x01\x00" + bytes(8), b"\x04" + bytes(9) + good, b"", b"\x01\x05" + bytes(8) + good, bytes(10) + good]
    read = os.read

    def hostile(descriptor: int, size: int) -> bytes:
        if descriptor != tun0._descriptor:
            return read(descriptor, size)
        if not reads:
            raise BlockingIOError
        return reads.pop(0)

    os.read = hostile
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"wakes the reader", ("10.9.0.2", 7))
    assert await tun0.receive() == [good]
    os.read = read
    assert tun0.drops == {"tun_malformed": 4}
    tun0.close()


# Without a device.

OURS = socket.inet_aton("10.9.0.1")


def flow(count: int, *, target: bytes = OURS, size: int = 1000, protocol: int = 6, seed: int = 1) -> list[bytes]:
    """`count` segments or datagrams of one IPv4 flow."""
    payload = random.Random(seed).randbytes(count * size)
    if protocol == 6:
        header = struct.pack(">HHIIBBHHH", 1000 + seed, 2, 7, 8, 0x50, 0x10, 500, 0, 0)
    else:
        header = struct.pack(">HHHH", 1000 + seed, 2, 8 + len(payload), 0)
    length = 20 + len(header) + len(payload)
    ip_header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, protocol, 0, b"\x0a\x09\0\2", target)
    return SuperPacket(ip_header + header + payload, size).segments()


def joiner() -> Joiner:
    made = Joiner()
    made.set_local([OURS, socket.inet_pton(socket.AF_INET6, "fd09::1")])
    return made


def test_nothing_is_joined_before_the_own_addresses_are_known() -> None:
    assert not Joiner().is_active
    packets = flow(10)
    assert Joiner().join(packets) == packets


def test_tcp_for_this_host_is_joined_to_be_verified_by_the_kernel() -> None:
    packets = flow(10)
    (joined,) = joiner().join(packets)
    assert isinstance(joined, OffloadedPacket)
    assert joined.segments() == packets
    header = parse(joined.virtio)
    assert header is not None
    assert not header.needs_checksum


@pytest.mark.parametrize(
    "packets",
    [
        flow(10, target=b"\x0a\x09\0\3"),
        flow(10, protocol=17),
        flow(3),
        flow(40, size=8),
        [*flow(10), SuperPacket(flow(1)[0], 1000)],
        [b"", b"\x45", b"\x60", *flow(1), bytes(3000)],
    ],
    ids=["routed on", "UDP", "too few", "too little", "beside a super-packet", "malformed"],
)
def test_what_gains_nothing_or_would_not_be_verified_is_left_alone(packets: list[Packet]) -> None:
    left = joiner().join(packets)
    assert sorted(map(id, left)) == sorted(map(id, packets))


def test_a_mixed_batch_keeps_the_order_of_each_flow() -> None:
    ours, routed, datagrams = flow(6), flow(6, target=b"\x0a\x09\0\3", seed=2), flow(6, protocol=17, seed=3)
    batch = [packet for each in zip(ours, routed, datagrams, strict=True) for packet in each]
    joined, *rest = joiner().join([*batch, b"\x60" + bytes(60)])
    assert isinstance(joined, OffloadedPacket)
    assert joined.segments() == ours
    assert [packet for packet in rest if packet in routed] == routed
    assert [packet for packet in rest if packet in datagrams] == datagrams


def test_a_refused_super_packet_that_the_kernel_was_to_verify_is_cut_only_if_it_is_right() -> None:
    packets = flow(4)
    (right,) = coalesce(packets, Checksums.LET_KERNEL_VERIFY)
    assert isinstance(right, OffloadedPacket)
    assert pieces(right) == packets
    packets[2] = packets[2][:-1] + bytes([packets[2][-1] ^ 1])
    (wrong,) = coalesce(packets, Checksums.LET_KERNEL_VERIFY)
    assert isinstance(wrong, OffloadedPacket)
    assert pieces(wrong) == []
    unsummed = SuperPacket(right.data[:36] + b"\0\0" + right.data[38:], 1000)
    assert pieces(unsummed) == flow(4)


class NotedTun(SimulatedTun):
    local: frozenset[bytes] = frozenset()

    def set_local(self, addresses: Iterable[bytes]) -> None:
        self.local = frozenset(addresses)


async def test_the_device_is_told_the_addresses_once_they_are_configured() -> None:
    device = NotedTun("hw0", 1420)

    class Configuring:
        async def configure(self, *_: object) -> None:
            assert not device.local

    context = SimpleNamespace(sibling=lambda _: SimpleNamespace(get=Configuring))

    async def serve(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    ports = SimpleNamespace(open_tun=lambda *_, **__: device, serve=serve)
    interface = InterfaceConfig(name="hw0", addresses=(ip_interface("10.9.0.1/24"), ip_interface("fd09::1/64")))
    async with trio.open_nursery() as nursery:
        router = Router([])
        addresses = LocalAddresses(interface.addresses, router)
        start = partial(tun_reader, context, ports, interface, addresses, router, Counter())  # type: ignore[arg-type]
        reader = await nursery.start(start)
        assert reader.port is device
        assert device.local == {OURS, socket.inet_pton(socket.AF_INET6, "fd09::1")}
        nursery.cancel_scope.cancel()


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=10), st.binary(max_size=120), st.booleans())
def test_no_read_of_a_device_raises(header: bytes, packet: bytes, is_partial: bool) -> None:
    data = (b"\x01\0" if is_partial else b"") + header + packet
    result = arrived(data)
    if isinstance(result, SuperPacket):
        result.segments()
    elif result is not None:
        assert len(result) == len(data) - 10


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([4, 6]), st.booleans(), st.data())
def test_a_quick_look_at_a_super_packet_says_what_a_thorough_one_does(
    version: int, tcp: bool, data: st.DataObject
) -> None:
    ready = offloaded(super_packet(3000, 1300, version=version, tcp=tcp))
    assert ready is not None
    read = bytearray(ready.virtio + ready.data)
    for place in data.draw(st.lists(st.integers(0, 70), max_size=3)):
        read[place] = data.draw(st.integers(0, 255))
    quick, thorough = arrived(bytes(read)), from_device(bytes(read))
    if read[:2] != b"\x01\x00":  # of a lone packet with an unfinished checksum they say different things
        assert quick == thorough
    if isinstance(quick, SuperPacket) and isinstance(thorough, SuperPacket):
        assert quick.layout == thorough.layout == layout_of(quick.data)


def test_udp_that_is_not_as_long_as_it_says_is_finished_here() -> None:
    """Its length is where the receiver would cut."""
    datagram = super_packet(64, 1000, tcp=False).segments()[0]
    at = IPV4_HEADER_BYTES
    header = struct.pack("=BBHHHH", 1, 0, at + 8, 0, at, UDP_CHECKSUM_AT)
    assert type(arrived(header + datagram)) is UnfinishedPacket
    for spoilt in (datagram + b"x", datagram[:-1]):
        assert type(arrived(header + spoilt)) is bytes
