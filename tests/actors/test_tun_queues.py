"""Several queues of one TUN device, as the kernel has them, each test alone in a network namespace."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections import Counter

import pytest
import trio
from namespaces import drop_capabilities, in_namespace, wait_until_local

from holloway.actors.kernel import KernelPorts
from holloway.actors.tun import KernelTun
from holloway.actors.tun_attached import attached_queues
from holloway.actors.tun_opening import open_tun, open_tun_queue
from holloway.actors.tun_queues import TunQueues
from holloway.protocols.errors import TunError
from holloway.protocols.flows import flow_number
from holloway.protocols.packets import SuperPacket, internet_checksum

QUEUES = 4
FLOWS = range(4001, 4033)


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def configured(queues: int = QUEUES, *, offloads: bool = True) -> TunQueues:
    """A device that is up, with our addresses and no link-local noise."""
    ports = KernelPorts(offloads=offloads)
    device = TunQueues(ports.open_tun("hw0", 1400, several=True), queues, ports)
    ip("link set hw0 addrgenmode none")
    ip("link set hw0 mtu 1400 up")
    ip("address add 10.9.0.1/24 dev hw0")
    ip("address add fd09::1/64 dev hw0 nodad")
    wait_until_local("fd09::1")
    return device


def asked(port: int) -> bytes:
    """A datagram from the far end to port 7 of ours, without a UDP checksum, as RFC 768 allows over IPv4."""
    header = port.to_bytes(2, "big") + (7).to_bytes(2, "big") + (12).to_bytes(2, "big") + bytes(2) + b"ping"
    made = bytes.fromhex("4500002000000000401100000a0900020a090001")
    return made[:10] + internet_checksum(made).to_bytes(2, "big") + made[12:] + header


async def taken(device: TunQueues, number: int) -> list[tuple[int, bytes]]:
    """So many packets of the host, each with the number of its queue."""
    found: list[tuple[int, bytes]] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def read(which: int) -> None:
                while True:
                    packets = await device.queues[which].receive()
                    found.extend(
                        (which, bytes(each.data if isinstance(each, SuperPacket) else each)) for each in packets
                    )
                    if len(found) >= number:
                        nursery.cancel_scope.cancel()

            for which in range(len(device.queues)):
                nursery.start_soon(read, which)
    return found


@in_namespace
async def test_flows_of_the_host_are_spread_over_the_queues() -> None:
    for offloads in (True, False):
        device = configured(offloads=offloads)
        for port in FLOWS:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("10.9.0.1", port))
                for _ in range(3):
                    sender.sendto(b"x", ("10.9.0.2", 7))
        found = await taken(device, 3 * len(FLOWS))
        by_flow: dict[bytes, set[int]] = {}
        for which, packet in found:
            by_flow.setdefault(packet[20:22], set()).add(which)
        assert len(by_flow) == len(FLOWS)
        assert all(len(queues) == 1 for queues in by_flow.values())
        assert len(set.union(*by_flow.values())) > 2
        assert sum(queue.packets for queue in device.queues) == 3 * len(FLOWS)
        assert sum(queue.bytes for queue in device.queues) == 3 * len(FLOWS) * 29
        device.close()


@in_namespace
async def test_answers_of_the_host_come_by_the_queue_that_the_flow_was_given_to_it_by() -> None:
    device = configured()
    right = {port: flow_number(asked(port)) % QUEUES for port in FLOWS}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("10.9.0.1", 7))
        for round_number in range(2):  # the kernel notes the queue of a packet after it has answered it
            device.send([asked(port) for port in FLOWS])
            for _ in FLOWS:
                data, source = server.recvfrom(100)
                server.sendto(data, source)
            found = await taken(device, len(FLOWS))
            if round_number:
                assert {int.from_bytes(packet[22:24], "big"): which for which, packet in found} == right
                assert len(set(right.values())) == QUEUES
        for port, which in right.items():
            before = device.queues[which].packets
            device.send([asked(port)])
            data, source = server.recvfrom(100)
            server.sendto(data, source)
            (answer,) = device.take()
            assert bytes(answer)[22:24] == port.to_bytes(2, "big"), "where the answer is looked for at once"  # type: ignore[arg-type]
            assert device.queues[which].packets == before + 1
    device.close()


@in_namespace
async def test_a_flow_that_fills_its_queue_leaves_room_in_the_others() -> None:
    device = configured(8)
    ip("link set hw0 txqueuelen 50")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooder:
        for _ in range(500):
            flooder.sendto(bytes(1000), ("10.9.0.2", 7))
        flood_port = flooder.getsockname()[1]
    for port in FLOWS:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("10.9.0.1", port))
            sender.sendto(b"x", ("10.9.0.2", 7))
    heard: dict[int, Counter[int]] = {}
    for which, queue in enumerate(device.queues):
        while packets := queue.take():
            heard.setdefault(which, Counter()).update(int.from_bytes(bytes(each)[20:22], "big") for each in packets)  # type: ignore[arg-type]
    (flooded,) = [which for which, ports in heard.items() if ports[flood_port]]
    assert heard[flooded][flood_port] < 500, "the queue was to run over"
    assert list(heard[flooded]) == [flood_port]
    arrived = sum(ports[port] for ports in heard.values() for port in FLOWS)
    assert arrived > len(FLOWS) / 2, "those alone are lost that share its queue: 4 of 32 on the average"
    device.close()


@in_namespace
async def test_every_queue_has_the_offloads_of_the_first() -> None:
    for offloads in (True, False):
        device = configured(offloads=offloads)
        assert len({queue.port.offloads for queue in device.queues}) == 1
        assert bool(device.offloads) is offloads
        device.set_local(iter([bytes([10, 9, 0, 1])]))
        for queue in device.queues:
            assert isinstance(queue.port, KernelTun)
            assert queue.port._joiner.is_active is offloads
        device.close()


@in_namespace
async def test_the_device_is_of_one_program_only() -> None:
    """The kernel would let a second one in, and give it a part of the flows."""
    device = configured()
    assert attached_queues("hw0") == QUEUES
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TunError) as caught:
        open_tun("hw0", 1400, several=True)
    assert caught.value.why.startswith("EBUSY from TUNSETIFF: another process is attached to it")
    with pytest.raises(TunError) as caught:
        open_tun("hw0", 1400)
    assert caught.value.why.startswith("EBUSY")
    assert len(os.listdir("/proc/self/fd")) == before
    assert attached_queues("hw0") == QUEUES
    device.close()
    assert attached_queues("hw0") is None
    single = open_tun("hw0", 1400)
    with pytest.raises(TunError) as caught:
        open_tun("hw0", 1400, several=True)
    assert caught.value.why == (
        "EINVAL from TUNSETIFF: an interface of that name exists and is not a TUN device of several queues"
    )
    single.close()


@in_namespace
async def test_two_programs_that_begin_at_once_do_not_share_the_device() -> None:
    ip("tuntap add hw0 mode tun multi_queue")
    from holloway.actors import tun_opening

    seen = iter([0, 2])  # both saw nobody, and each the other afterwards
    tun_opening.attached_queues = lambda _: next(seen)  # type: ignore[assignment]
    with pytest.raises(TunError) as caught:
        open_tun("hw0", 1400, several=True)
    assert caught.value.why.startswith("EBUSY")
    tun_opening.attached_queues = attached_queues
    assert attached_queues("hw0") == 0


@in_namespace
async def test_a_persistent_device_of_several_queues_serves_its_owner_without_privilege() -> None:
    ip(f"tuntap add hw0 mode tun multi_queue user {os.geteuid()}")
    ip("tuntap add hw1 mode tun")
    drop_capabilities()
    ports = KernelPorts()
    for _ in range(2):
        device = TunQueues(ports.open_tun("hw0", 1400, several=True), QUEUES, ports)
        assert attached_queues("hw0") == QUEUES
        device.close()
        assert attached_queues("hw0") == 0
    with pytest.raises(TunError) as caught:
        open_tun("hw2", 1400, several=True)
    assert "sudo ip tuntap add hw2 mode tun multi_queue user $USER" in caught.value.fix


@in_namespace
async def test_a_device_that_is_deleted_is_lost_once_for_all_queues() -> None:
    device = configured()
    async with trio.open_nursery() as nursery:
        for queue in device.queues:
            nursery.start_soon(queue.receive)
        with trio.fail_after(5):
            ip("link delete hw0")
            with pytest.raises(TunError, match="lost the TUN device hw0"):
                await device.receive()
        nursery.cancel_scope.cancel()
    device.close()


@in_namespace
async def test_a_refused_queue_closes_those_before() -> None:
    ports = KernelPorts()
    before = len(os.listdir("/proc/self/fd"))
    calls: list[object] = []

    class Refusing(KernelPorts):
        def open_tun_queue(self, device: object) -> object:  # type: ignore[override]
            calls.append(device)
            if len(calls) == 3:
                raise TunError("cannot open one more queue", errno.errorcode[errno.EMFILE])
            return ports.open_tun_queue(device)  # type: ignore[arg-type]

    with pytest.raises(TunError, match="one more queue"):
        TunQueues(ports.open_tun("hw0", 1400, several=True), QUEUES, Refusing())  # type: ignore[arg-type]
    assert len(os.listdir("/proc/self/fd")) == before
    assert attached_queues("hw0") is None


@in_namespace
async def test_one_more_queue_of_a_device_that_was_not_opened_for_it_is_refused() -> None:
    device = open_tun("hw0", 1400)
    with pytest.raises(TunError, match="one more queue of the TUN device 'hw0'"):
        open_tun_queue(device)
    device.close()
