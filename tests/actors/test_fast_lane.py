"""The second socket of an address and the second queue of a device: what comes by them, and what is sent by them."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, ClassVar

import pytest
import trio
from namespaces import drop_capabilities, in_namespace
from super_packets import super_packet

from holloway.actors import fast_lane
from holloway.actors import tun as tun_module
from holloway.actors.kernel import KernelPorts
from holloway.actors.outer_loop import LOOK_COST_BYTES, OuterLoop
from holloway.actors.tun import RECEIVE_BUDGET_BYTES, KernelTun
from holloway.actors.tun import SPARSE_BUDGET as TUN_BUDGET
from holloway.actors.tun_attached import attached_queues
from holloway.actors.tun_steering import MOST_PACKETS
from holloway.actors.udp import UdpSocket
from holloway.actors.udp_binding import SPARSE_BUDGET, SPARSE_DSCP, TRAFFIC_CLASS, open_sparse, open_udp
from holloway.protocols.arrivals import Arrival
from holloway.protocols.errors import LocalError, TunError
from holloway.protocols.icmp import echo_request
from holloway.protocols.packets import SuperPacket
from holloway.protocols.runs import Run
from holloway.protocols.virtio import offload_header

LOOPBACKS = ["127.0.0.1", "::1"]
HEADERS_BYTES = 28
SHORT, LONG = b"short", bytes(1000)
PORTS = count(40_000)


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_what_is_marked_comes_by_the_second_socket_and_all_else_by_the_first(host: str) -> None:
    (port,) = open_udp(host, 0)
    open_sparse(port)
    assert port.sparse is not None
    option = TRAFFIC_CLASS[port.socket.family][3]
    for mark, expected in (
        (SPARSE_DSCP << 2, port.sparse),
        (SPARSE_DSCP << 2 | 1, port.sparse),
        (0, port),
        (46 << 2, port),
    ):
        with socket.socket(port.socket.family, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(*option, mark)
            sender.sendto(b"x", port.local)
        with trio.fail_after(5):
            assert [bytes(each.data) for each in await expected.receive()] == [b"x"]
        assert not select.select([port, port.sparse], [], [], 0)[0]
    port.close()
    assert port.sparse.fileno() < 0


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_what_is_sent_by_the_lane_is_marked_and_nothing_else(host: str) -> None:
    (ours,), (theirs,) = open_udp(host, 0), open_udp(host, 0)
    open_sparse(theirs)
    assert theirs.sparse is not None
    unmarked = ours.lone_sender(theirs.local, is_sparse=True)  # as long as there is no second socket
    open_sparse(ours)
    for sends, expected in (
        ((ours.lone_sender(theirs.local, is_sparse=True),), theirs.sparse),
        ((unmarked,), theirs),
        ((ours.lone_sender(theirs.local), ours.lone_sender(theirs.local, may_fragment=True)), theirs),
        ((partial(ours.send_lone, destination=theirs.local),), theirs),
        ((lambda data: ours.send([data], theirs.local),), theirs),
    ):
        for send in sends:
            send(b"x")
        with trio.fail_after(5):
            arrivals = await expected.receive()
            while sum(each.datagram_count for each in arrivals) < len(sends):
                arrivals += await expected.receive()
        assert {each.source for each in arrivals} == {ours.local}
        assert not select.select([theirs, theirs.sparse], [], [], 0)[0]
    with pytest.raises(LocalError):
        ours.lone_sender(("192.0.2.1", 1) if host == "::1" else ("2001:db8::1", 1, 0, 0), is_sparse=True)(b"x")
    ours.close()
    theirs.close()


def lane_ports() -> tuple[KernelPorts, KernelTun]:
    ports = KernelPorts(loop=OuterLoop(), sparse_first=True)
    tun = ports.open_tun("hw0", 1420)
    assert isinstance(tun, KernelTun)
    return ports, tun


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def bring_up() -> None:
    for command in ("link set hw0 addrgenmode none", "link set hw0 mtu 1420 up", "address add 10.9.0.1/24 dev hw0"):
        ip(command)


def say(*payloads: bytes) -> None:
    """Each in a flow of its own, of which no two share a place in the kernel's memory: with random ports one in 5000 would."""
    for payload in payloads:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("10.9.0.1", next(PORTS)))
            sender.sendto(payload, ("10.9.0.2", 7))


@in_namespace
async def test_a_device_gives_what_is_sparse_apart_and_closes_both_queues() -> None:
    _, tun = lane_ports()
    bring_up()
    say(LONG, SHORT)
    assert tun.sparse is not None
    first = await tun.receive()
    assert [len(packet) for packet in first] == [len(LONG) + HEADERS_BYTES], [bytes(each)[:60].hex() for each in first]  # type: ignore[arg-type]
    assert [len(packet) for packet in await tun.sparse.receive()] == [len(SHORT) + HEADERS_BYTES]  # type: ignore[arg-type]
    tun.close()
    assert tun.sparse.fileno() < 0
    assert "hw0" not in [name for _, name in socket.if_nameindex()]


@in_namespace
async def test_the_answer_to_what_comes_alone_is_taken_from_the_second_queue_and_others_are_not() -> None:
    _, tun = lane_ports()
    bring_up()
    assert tun.answers_sparse
    echo = echo_request(socket.inet_aton("10.9.0.2"), socket.inet_aton("10.9.0.1"), 1, 1)
    say(LONG)
    (answer,) = tun.send_lone(echo)
    assert bytes(answer)[12:20] == echo[16:20] + echo[12:16]  # type: ignore[arg-type]
    assert tun.send_lone(b"\x45" + bytes(19)) == []
    say(SHORT)
    assert [bytes(each)[HEADERS_BYTES:] for each in tun.take()] == [LONG]  # type: ignore[arg-type]
    assert tun.take() == []
    tun.close()


@in_namespace
async def test_a_device_of_one_queue_that_is_there_already_is_used_as_it_is() -> None:
    ip("tuntap add hw0 mode tun")
    _, tun = lane_ports()
    assert tun.sparse is None
    tun.close()


@in_namespace
async def test_without_the_privilege_to_sort_packets_the_device_has_one_queue() -> None:
    ip("tuntap add hw0 mode tun multi_queue user 0")
    drop_capabilities()
    _, tun = lane_ports()
    assert tun.sparse is None
    tun.close()


@in_namespace
async def test_between_two_packets_of_a_bulk_flow_what_is_sparse_is_given_to_its_own_taker() -> None:
    """The reader of the device's first queue asks for more, and the second queue's has been called before it gets it."""
    seen: list[str] = []

    async def main() -> None:
        ports = KernelPorts(loop=loop, sparse_first=True)
        tun = ports.open_tun("hw0", 1420)
        assert isinstance(tun, KernelTun)
        bring_up()

        def take(packets: list[object]) -> None:
            seen.append("bulk")
            say(SHORT, LONG)
            tun._left = 1 << 20  # as after a super-packet
            assert tun.more() is not None
            seen.append("more")
            nursery.cancel_scope.cancel()

        def take_sparse(packet: object) -> None:
            seen.append("sparse")

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(ports.serve, tun, take, sparse=(take_sparse, take_sparse)))
                say(LONG)
        tun.close()

    loop = OuterLoop()
    await trio.to_thread.run_sync(loop.run, main)
    assert seen == ["bulk", "sparse", "more"]


@in_namespace
async def test_another_program_on_the_device_is_named_and_not_taken_for_a_device_of_one_queue() -> None:
    _, tun = lane_ports()
    with pytest.raises(TunError, match="EBUSY"):
        lane_ports()
    tun.close()


@in_namespace
async def test_what_is_left_out_of_either_queue_is_counted_once() -> None:
    _, tun = lane_ports()
    assert tun.sparse is not None
    tun._superseded, tun.sparse._superseded = 2, 3
    assert tun.superseded == 5
    tun.superseded = 0
    assert tun.superseded == tun.sparse.superseded == 0
    tun.close()


@pytest.mark.parametrize("offloads", [True, False])
async def test_one_look_takes_no_more_than_its_budget_of_what_anybody_may_mark(*, offloads: bool) -> None:
    (port,), (sender,) = open_udp("127.0.0.1", 0, offloads=offloads), open_udp("127.0.0.1", 0)
    open_sparse(port, offloads=offloads)
    assert port.sparse is not None
    sender.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, SPARSE_DSCP << 2)
    sender.send_runs([Run((bytes(64_000),), 1000, 64_000)] * 2, port.local)
    taken = 0
    while arrivals := port.sparse._drain():
        assert sum(each.datagram_count for each in arrivals) <= SPARSE_BUDGET
        taken += sum(each.datagram_count for each in arrivals)
    assert taken == 128
    port.close()
    sender.close()


def payloads(packets: list[object]) -> list[int]:
    return [int.from_bytes(bytes(each)[HEADERS_BYTES:], "big") for each in packets]  # type: ignore[call-overload]


async def served(loop: OuterLoop, port: KernelTun | UdpSocket, take: Callable[..., None], **more: Any) -> None:
    """Until `take` cancels the nursery that it is given."""
    ports = KernelPorts(loop=loop, sparse_first=True)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await ports.serve(port, partial(take, nursery), **more)  # type: ignore[arg-type]


@in_namespace
async def test_a_flow_that_begins_to_send_much_does_not_overtake_itself_in_the_device() -> None:
    """Its first packets are in the second queue, and the reader of the first one may be called before that of the second."""
    count = MOST_PACKETS + 36
    seen: list[int] = []

    async def main() -> None:
        tun = lane_ports()[1]
        bring_up()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
            flow.connect(("10.9.0.2", 7))
            for number in range(count):
                flow.send(number.to_bytes(2, "big"))

        def take(nursery: trio.Nursery, packets: list[object]) -> None:
            seen.extend(payloads(packets))
            if len(seen) == count:
                nursery.cancel_scope.cancel()

        def take_sparse(packets: list[object]) -> None:
            assert len(packets) <= TUN_BUDGET
            seen.extend(payloads(packets))

        await served(loop, tun, take, sparse=(take_sparse, None))
        tun.close()

    loop = OuterLoop()
    await trio.to_thread.run_sync(loop.run, main)
    assert seen == list(range(count))


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_what_was_marked_and_sent_first_is_taken_first_whichever_socket_is_read(host: str) -> None:
    seen: list[int] = []

    async def main() -> None:
        (ours,), (theirs,) = open_udp(host, 0), open_udp(host, 0)
        open_sparse(ours)
        open_sparse(theirs)
        marked, plain = ours.lone_sender(theirs.local, is_sparse=True), ours.lone_sender(theirs.local)
        for number in range(80):
            (marked if number < 50 else plain)(number.to_bytes(2, "big"))

        def take(nursery: trio.Nursery, arrivals: list[Arrival]) -> None:
            seen.extend(int.from_bytes(datagram, "big") for each in arrivals for datagram in each.datagrams())
            if len(seen) == 80:
                nursery.cancel_scope.cancel()

        await served(loop, theirs, take)
        ours.close()
        theirs.close()

    loop = OuterLoop()
    await trio.to_thread.run_sync(loop.run, main)
    assert seen == list(range(80))


@in_namespace
async def test_while_others_are_looked_for_nobody_reads_what_comes_after_what_is_held() -> None:
    """An answer that is looked for within a look, as by a session that has just written to the host."""
    _, tun = lane_ports()
    bring_up()
    within: list[list[object]] = []
    taken: list[int] = []

    def look(rounds: int = 1) -> bool:
        within.append([*tun.take()])
        assert tun.sparse is not None
        within.append([*tun.send_lone(b"\x45" + bytes(19))])
        return True

    tun.look = look
    numbers = [number.to_bytes(2, "big") + LONG for number in range(1, 6)]
    for number in numbers:
        say(number)
    taken += [int.from_bytes(bytes(each)[HEADERS_BYTES:][:2], "big") for each in tun.take()]  # type: ignore[arg-type]
    tun.reader(
        lambda packets: taken.extend(int.from_bytes(bytes(each)[HEADERS_BYTES:][:2], "big") for each in packets)
    )(  # type: ignore[arg-type]
        False
    )
    say(numbers[0])
    tun._left = RECEIVE_BUDGET_BYTES
    assert tun.more() is not None
    assert taken == [1, 2, 3, 4, 5]
    assert within == [[]] * 6
    assert not tun._are_held
    assert tun._left > 0
    say(LONG)
    tun._lone = True
    tun.reader(taken.append, taken.append)(True)  # type: ignore[arg-type]
    assert within == [[]] * 8
    tun.close()


@in_namespace
async def test_a_stream_leaves_to_others_what_begins_a_flow_that_may_have_sent_something_before() -> None:
    _, tun = lane_ports()
    bring_up()
    looks: list[int] = []

    def look(rounds: int = 1) -> bool:
        looks.append(len(given))
        return False

    def datagrams(port: int) -> bytes:
        """As the device gives a super-packet of TCP."""
        whole = bytearray(super_packet(60_000, 1300).data)
        whole[20:22] = port.to_bytes(2, "big")
        return offload_header(6, True, 20, 40, 1300) + bytes(whole)

    class Device:
        """What there is to read."""

        waiting: ClassVar[list[bytes]] = [datagrams(port) for port in (1, 1, 2, 2)]

        @classmethod
        def read(cls, descriptor: int, size: int) -> bytes:
            if not cls.waiting:
                raise BlockingIOError(errno.EAGAIN, "nothing")
            return cls.waiting.pop(0)

    given: list[SuperPacket] = []

    def keep(packet: SuperPacket) -> bool:
        given.append(SuperPacket(bytes(packet.data), packet.segment_size))
        return True

    tun.look, tun.is_urgent = look, lambda: len(given) in (0, 2)
    like = super_packet(60_000, 1300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tun_module.os, "read", Device.read)
        tun._left = RECEIVE_BUDGET_BYTES
        for _ in range(2):
            assert tun.stream(like, keep) is None
            following = tun.more()
            assert isinstance(following, SuperPacket)
            keep(following)
        assert tun.stream(like, keep) is None
    assert [each.data[20:22] for each in given] == [b"\0\1", b"\0\1", b"\0\2", b"\0\2"]
    assert looks == [0, 2], "each time before what had been read was given"
    tun.close()


@in_namespace
async def test_who_floods_the_second_queue_takes_no_more_than_a_part_of_a_turn_of_the_first() -> None:
    tun = lane_ports()[1]
    bring_up()
    looks = 0

    def look(rounds: int = 1) -> bool:
        nonlocal looks
        looks += 1
        return True

    tun.look = look
    for _ in range(60):
        say(LONG)
    tun._left = RECEIVE_BUDGET_BYTES
    taken = 0
    while tun.more() is not None:
        taken += 1
    assert looks <= RECEIVE_BUDGET_BYTES // LOOK_COST_BYTES + 1
    assert 0 < taken <= looks
    tun.close()


@in_namespace
async def test_without_the_privilege_the_device_is_one_of_a_single_queue() -> None:
    """One that may have several takes much more memory of the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_lane, "load", refused)
        _, tun = lane_ports()
    assert tun.sparse is None
    assert attached_queues("hw0") is None
    tun.close()


@in_namespace
async def test_a_kernel_that_will_not_steer_leaves_one_queue_and_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_lane, "steer", refused)
        ports = KernelPorts(loop=OuterLoop(), sparse_first=True)
        loops = len(os.listdir("/proc/self/fd")) - before
        tun = ports.open_tun("hw0", 1420)
    assert isinstance(tun, KernelTun)
    assert tun.sparse is None
    assert attached_queues("hw0") == 1
    assert len(os.listdir("/proc/self/fd")) == before + loops + 1
    tun.close()


def refused(*_: object) -> int:
    raise PermissionError(errno.EPERM, "no")
