"""Several sockets of one address, as the kernel has them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import trio
from namespaces import in_namespace

from holloway.actors.kernel import KernelPorts
from holloway.actors.udp import UdpSocket
from holloway.actors.udp_binding import BUFFER_BYTES, open_beside, open_udp
from holloway.actors.udp_queues import UdpQueues, shared
from holloway.actors.udp_sending import MTU_DISCOVER, PMTUDISC_PROBE
from holloway.protocols.errors import PortError

LOOPBACKS = ["127.0.0.1", "::1"]
QUEUES = 4


@contextmanager
def opened(address: str | None = None, queues: int = QUEUES) -> Iterator[list[UdpQueues]]:
    ports = KernelPorts()
    families = shared(ports.open_datagrams(address, 0), queues, ports)
    try:
        yield [family for family in families if isinstance(family, UdpQueues)]
    finally:
        for family in families:
            family.close()


def sockets(family: UdpQueues) -> list[socket.socket]:
    found = [queue.port for queue in family.queues]
    return [port.socket for port in found if isinstance(port, UdpSocket)]


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_what_arrives_is_spread_by_where_it_comes_from(host: str) -> None:
    """Each source always lands in the same socket, and 64 sources in all of four: in three at most once in 10^7 times."""
    with opened(host) as (family,), ExitStack() as stack:
        landed: dict[object, list[int]] = {}

        async def read(number: int) -> None:
            while True:
                for arrival in await family.queues[number].receive():
                    landed.setdefault(arrival.source, []).extend([number] * arrival.datagram_count)
                if sum(map(len, landed.values())) == 3 * len(senders):
                    nursery.cancel_scope.cancel()

        senders = [stack.enter_context(socket.socket(sockets(family)[0].family, socket.SOCK_DGRAM)) for _ in range(64)]
        async with trio.open_nursery() as nursery:
            for number in range(QUEUES):
                nursery.start_soon(read, number)
            for round_number in range(3):
                for sender in senders:
                    sender.sendto(b"%d" % round_number, family.local)
            nursery.cancel_scope.deadline = trio.current_time() + 5
        assert all(len(set(numbers)) == 1 for numbers in landed.values())
        assert Counter(queue.datagrams > 0 for queue in family.queues) == {True: QUEUES}
        assert sum(queue.datagrams for queue in family.queues) == sum(queue.bytes for queue in family.queues) == 192


@pytest.mark.parametrize("theirs", [1, QUEUES])
def test_a_second_node_is_told_that_the_port_is_taken(theirs: int) -> None:
    """The kernel would let it in, as it belongs to the same user: that it begins with a socket of its own kind is the guard."""
    with opened() as (ipv4, _):
        ports = KernelPorts()
        with pytest.raises(PortError) as caught:
            shared(ports.open_datagrams(None, ipv4.local[1]), theirs, ports)
        assert caught.value.why == f"EADDRINUSE: another process has UDP port {ipv4.local[1]}"


def test_several_queues_do_not_share_the_port_of_a_node_with_one() -> None:
    with opened(queues=1) as (ipv4, _):
        ports = KernelPorts()
        with pytest.raises(PortError, match="EADDRINUSE"):
            shared(ports.open_datagrams(None, ipv4.local[1]), QUEUES, ports)


def test_the_port_is_free_again_when_all_are_closed() -> None:
    with opened() as (ipv4, _):
        port = ipv4.local[1]
    for sock in open_udp(None, port):
        sock.close()


def test_every_socket_is_like_the_first() -> None:
    with opened() as families:
        for family in families:
            first, *others = sockets(family)
            for other in others:
                assert other.getsockname() == first.getsockname()
                assert other.getblocking() is False
                for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                    assert other.getsockopt(socket.SOL_SOCKET, option) == first.getsockopt(socket.SOL_SOCKET, option)
                level, name = MTU_DISCOVER[first.family]
                assert other.getsockopt(level, name) == PMTUDISC_PROBE
                if first.family == socket.AF_INET6:
                    assert other.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
            assert len({queue.port.offloads for queue in family.queues}) == 1


@in_namespace
def test_every_socket_has_the_mark_and_the_large_buffers_of_the_first() -> None:
    ports = KernelPorts()
    for family in shared(ports.open_datagrams(None, 0, mark=0x1234), 3, ports):
        assert isinstance(family, UdpQueues)
        for sock in sockets(family):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x1234
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * BUFFER_BYTES
        family.close()


async def test_runs_of_datagrams_arrive_by_any_of_them() -> None:
    """What a run is cut into stays together (UDP_GRO), whichever socket it comes to."""
    with opened("127.0.0.1") as (family,):
        if "gro" not in family.offloads:
            pytest.skip("this kernel has no UDP_GRO: run the tests on Linux 5.0 or newer")
        found: dict[int, int] = {}
        for _ in range(64):
            (sender,) = open_udp("127.0.0.1", 0)
            sender.send([bytes(1000)] * 8, family.local)
            sender.close()
        for number, queue in enumerate(family.queues):
            with trio.move_on_after(0.2):
                while queue.bytes < 64 * 8 * 1000:
                    for arrival in await queue.receive():
                        found[number] = found.get(number, 0) + arrival.datagram_count
        assert sum(found.values()) == 64 * 8
        assert len(found) == QUEUES


def test_what_has_one_source_fills_the_buffer_of_one_socket_alone() -> None:
    """The point of several: a flood that nobody can read as fast as it comes takes no room from the others."""
    with opened("127.0.0.1", 8) as (family,), ExitStack() as stack:
        for sock in sockets(family):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        flooder, *others = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(33)]
        for _ in range(500):
            flooder.sendto(bytes(1000), family.local)
        for other in others:
            other.sendto(b"ping" * 250, family.local)
        heard: dict[int, Counter[bytes]] = {}
        for number, sock in enumerate(sockets(family)):
            with suppress(BlockingIOError):
                while True:
                    heard.setdefault(number, Counter())[sock.recv(2000)[:4]] += 1
        (flooded,) = [number for number, found in heard.items() if found[bytes(4)]]
        assert heard[flooded][bytes(4)] < 500, "the buffer was to run over"
        assert heard[flooded][b"ping"] == 0
        answered = sum(found[b"ping"] for found in heard.values())
        assert answered > len(others) / 2, "those alone are lost that share the socket: 4 of 32 on the average"


async def test_a_socket_is_opened_beside_one_that_lives_when_the_first_is_gone() -> None:
    with opened("127.0.0.1") as (family,):
        family.close_broken(family.queues[0])
        family.replace(family.queues[0])
        assert {family._towards(("192.0.2.1", port)) for port in range(100)} == {each.port for each in family.queues}
        assert len({sock.getsockname() for sock in sockets(family)}) == 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(family.local)
            sender.send(b"x")
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                async def read(number: int) -> None:
                    await family.queues[number].receive()
                    nursery.cancel_scope.cancel()

                for number in range(QUEUES):
                    nursery.start_soon(read, number)


def test_a_refused_socket_leaks_no_descriptor() -> None:
    (first,) = open_udp("127.0.0.1", 0)
    os.close(os.dup(first.socket.fileno()))
    before = len(os.listdir("/proc/self/fd"))
    first.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    code = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(('127.0.0.1', int(sys.argv[1])))"
    )
    port = str(first.local[1])
    assert subprocess.run([sys.executable, "-c", code, port], check=False).returncode == 0, "such a program is let in"
    first.close()
    with pytest.raises(PortError):
        open_beside(first)
    assert len(os.listdir("/proc/self/fd")) == before - 1
