"""The TUN port against real devices, each test alone in a network namespace."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess

import pytest
import trio
import trio.testing
from namespaces import drop_capabilities, in_namespace, needs_program, wait_until_local

from holloway.actors import tun, tun_offload, tun_opening
from holloway.actors.ports import TunPort
from holloway.actors.tun import KernelTun
from holloway.actors.tun_attached import attached_queues
from holloway.actors.tun_opening import open_tun
from holloway.protocols.errors import TunError
from holloway.protocols.icmp import answer_echo, echo_request, parse_echo_reply
from holloway.protocols.packets import SuperPacket, destination, internet_checksum

OURS_V4, THEIRS_V4 = bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])
OURS_V6, THEIRS_V6 = socket.inet_pton(socket.AF_INET6, "fd09::1"), socket.inet_pton(socket.AF_INET6, "fd09::2")


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def configured(name: str = "hw0", mtu: int = 1400, *, offloads: bool = True) -> KernelTun:
    """A device that is up, with our addresses and no link-local noise."""
    device = open_tun(name, mtu, offloads=offloads)
    ip(f"link set {name} addrgenmode none")
    ip(f"link set {name} mtu {mtu} up")
    ip(f"address add 10.9.0.1/24 dev {name}")
    ip(f"address add fd09::1/64 dev {name} nodad")
    wait_until_local("fd09::1")
    return device


def udp_over_ipv4(payload: bytes, *, port: int = 4000) -> bytes:
    """A datagram from the far end to us, without a UDP checksum, as RFC 768 allows over IPv4."""
    header = struct.pack(">HHHH", 4001, port, 8 + len(payload), 0)
    ip_header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0, THEIRS_V4, OURS_V4)
    checksum = struct.pack(">H", internet_checksum(ip_header))
    return ip_header[:10] + checksum + ip_header[12:] + header + payload


@in_namespace
async def test_packets_of_both_families_come_out_whole() -> None:
    device = configured()
    for family, host, far in (
        (socket.AF_INET, "10.9.0.2", THEIRS_V4),
        (socket.AF_INET6, "fd09::2", THEIRS_V6),
    ):
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"payload " * 100, (host, 7))
        (packet,) = await device.receive()
        assert isinstance(packet, bytes)
        assert destination(packet) == far
        assert packet.endswith(b"payload " * 100)
    assert not device.drops
    device.close()


@in_namespace
async def test_packets_of_both_families_reach_the_host() -> None:
    device = configured()
    for ours, theirs in ((OURS_V4, THEIRS_V4), (OURS_V6, THEIRS_V6)):
        device.send([echo_request(theirs, ours, 7, sequence) for sequence in (1, 2)])
        answers = [parse_echo_reply(packet) for packet in await device.receive() if isinstance(packet, bytes)]
        assert [(answer.source, answer.sequence) for answer in answers if answer] == [(ours, 1), (ours, 2)]
    assert not device.drops
    device.close()


@needs_program("ping", package="iputils-ping")
@in_namespace
async def test_ping_is_answered_through_the_device() -> None:
    device = configured()

    async def answer() -> None:
        while True:
            packets = [packet for packet in await device.receive() if isinstance(packet, bytes)]
            device.send([reply for packet in packets if (reply := answer_echo(packet))])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        for host in ("10.9.0.2", "fd09::2"):
            ping = await trio.run_process(["ping", "-c2", "-i0.05", "-W2", host], capture_stdout=True, check=False)
            assert b" 0% packet loss" in ping.stdout, ping.stdout
        nursery.cancel_scope.cancel()
    device.close()


@in_namespace
async def test_a_receive_takes_a_budget_then_lets_others_run() -> None:
    device = configured()
    count = tun.RECEIVE_BUDGET + 5
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(count):
            sender.sendto(b"%d" % number, ("10.9.0.2", 7))
    first = await device.receive()
    with trio.testing.assert_checkpoints():  # packets are there at once, and yet others get their turn
        rest = await device.receive()
    assert (len(first), len(rest)) == (tun.RECEIVE_BUDGET, 5)
    assert [packet[28:] for packet in first + rest if isinstance(packet, bytes)] == [b"%d" % n for n in range(count)]
    with trio.move_on_after(0.05) as quiet:
        await device.receive()
    assert quiet.cancelled_caught, "an empty device is waited for"
    device.close()


@in_namespace
async def test_an_mtu_raised_by_somebody_else_cuts_no_packet() -> None:
    device = configured(mtu=1400)
    ip("link set hw0 mtu 9000")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(bytes(8900), ("10.9.0.2", 7))
    (packet,) = await device.receive()
    assert isinstance(packet, bytes)
    assert len(packet) == 8928
    device.close()


@in_namespace
async def test_what_the_kernel_refuses_is_counted_and_the_rest_arrives() -> None:
    device = configured()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("10.9.0.1", 4000))
        receiver.settimeout(2)
        neither_4_nor_6 = b"\x00" * 40
        device.send([b"", neither_4_nor_6, SuperPacket(b"\x45", 100), udp_over_ipv4(b"whole")])
        assert receiver.recv(100) == b"whole"
        assert device.drops == {"tun_einval": 2, "tun_malformed": 1}
        ip("link set hw0 down")
        device.send([udp_over_ipv4(b"late")])
        assert device.drops["tun_eio"] == 1
    device.close()


@in_namespace
async def test_a_super_packet_reaches_the_host_as_its_segments() -> None:
    device = configured()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("10.9.0.1", 4000))
        receiver.settimeout(2)
        device.send([SuperPacket(udp_over_ipv4(b"a" * 1000 + b"b" * 1000 + b"c" * 10), 1000)])
        assert [receiver.recv(2000) for _ in range(3)] == [b"a" * 1000, b"b" * 1000, b"c" * 10]
    assert not device.drops
    device.close()


@in_namespace
async def test_a_deleted_device_ends_receive_with_a_tun_error() -> None:
    device = configured()

    async def read() -> None:
        with pytest.raises(TunError) as caught:
            await device.receive()
        assert "hw0" in caught.value.what
        assert "EBADFD" in caught.value.why

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            ip("link delete hw0")
    with trio.fail_after(5), pytest.raises(TunError):
        await device.receive()
    device.send([udp_over_ipv4(b"lost")])
    assert device.drops == {"tun_ebadfd": 1}
    device.close()


@in_namespace
async def test_packets_read_before_the_device_vanished_are_not_lost() -> None:
    device = configured()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"kept", ("10.9.0.2", 7))
    read, calls = os.read, 0

    def failing_second_read(descriptor: int, size: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 2:
            ip("link delete hw0")
        return read(descriptor, size)

    os.read = failing_second_read
    try:
        (packet,) = await device.receive()
    finally:
        os.read = read
    assert isinstance(packet, bytes)
    assert packet.endswith(b"kept")
    with pytest.raises(TunError):
        await device.receive()
    device.close()


@in_namespace
async def test_closing_wakes_the_reader_and_removes_the_device() -> None:
    device = configured()

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await device.receive()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            device.close()
    device.close()
    with pytest.raises(trio.ClosedResourceError):
        await device.receive()
    device.send([udp_over_ipv4(b"lost")])
    assert device.drops == {"tun_ebadf": 1}
    assert "hw0" not in dict(map(reversed, socket.if_nameindex()))  # type: ignore[arg-type]


@in_namespace
async def test_a_persistent_device_serves_its_owner_without_privilege() -> None:
    ip(f"tuntap add hw0 mode tun user {os.geteuid()}")
    drop_capabilities()
    device: TunPort = open_tun("hw0", 1400)
    device.close()
    assert "hw0" in [name for _, name in socket.if_nameindex()]
    with pytest.raises(TunError, match="hw1") as caught:
        open_tun("hw1", 1400)
    assert caught.value.why.startswith("EPERM from TUNSETIFF")
    assert "sudo ip tuntap add hw1 mode tun user $USER" in caught.value.fix


@in_namespace
async def test_offloads_that_the_last_user_left_on_are_switched_off() -> None:
    ip("tuntap add hw0 mode tun")
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    with_vnet_header, checksum_offload = 0x5001, 0x01
    fcntl.ioctl(descriptor, tun_opening.TUNSETIFF, tun_offload.IFREQ.pack(b"hw0", with_vnet_header))
    fcntl.ioctl(descriptor, tun_offload.TUNSETOFFLOAD, checksum_offload)
    os.close(descriptor)
    device = configured(offloads=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"sum me", ("10.9.0.2", 7))
    (packet,) = await device.receive()
    assert isinstance(packet, bytes)
    pseudo_header = int.from_bytes(packet[12:20], "big") + 17 + len(packet) - 20
    assert internet_checksum(packet[20:], pseudo_header) == 0, "the kernel left the checksum to us"
    device.close()


@in_namespace
async def test_a_device_in_use_or_of_another_kind_is_refused() -> None:
    device = open_tun("hw0", 1400)
    with pytest.raises(TunError) as caught:
        open_tun("hw0", 1400)
    assert caught.value.why.startswith("EBUSY")
    device.close()
    ip("link add br0 type bridge")
    for several in (False, True):
        with pytest.raises(TunError) as caught:
            open_tun("br0", 1400, several=several)
        assert caught.value.why.startswith("EINVAL")
        assert caught.value.fix == "choose another interface name, or: sudo ip link delete br0"


@in_namespace
async def test_a_persistent_device_of_several_queues_is_used_with_one() -> None:
    ip("tuntap add hw0 mode tun multi_queue")
    device = open_tun("hw0", 1400)
    assert attached_queues("hw0") == 1
    device.close()
    assert attached_queues("hw0") == 0


@in_namespace
async def test_a_refused_device_leaks_no_descriptor() -> None:
    device = open_tun("hw0", 1400)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(TunError):
            open_tun("hw0", 1400)
    assert len(os.listdir("/proc/self/fd")) == before
    device.close()
