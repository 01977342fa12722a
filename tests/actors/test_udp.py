"""The UDP port against real sockets on the loopback, both families. Runs of datagrams are in `test_udp_offload.py`."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from namespaces import in_namespace

from holloway.actors import udp, udp_binding, udp_sending
from holloway.actors.ports import DatagramPort
from holloway.actors.udp import UdpSocket
from holloway.actors.udp_binding import open_udp
from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.errors import LocalError, PortError

LOOPBACKS = ["127.0.0.1", "::1"]
IP_RECVERR = 11


@contextmanager
def opened(address: str | None, port: int = 0, *, offloads: bool = True) -> Iterator[list[UdpSocket]]:
    sockets = open_udp(address, port, offloads=offloads)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


@contextmanager
def pair(host: str, *, offloads: bool = True) -> Iterator[tuple[UdpSocket, UdpSocket]]:
    with opened(host, offloads=offloads) as (left,), opened(host, offloads=offloads) as (right,):
        yield left, right


@pytest.mark.parametrize("offloads", [True, False])
@pytest.mark.parametrize("host", LOOPBACKS)
async def test_datagrams_arrive_in_order_with_their_source(host: str, *, offloads: bool) -> None:
    with pair(host, offloads=offloads) as (left, right):
        port: DatagramPort = left
        port.send([b"one", b"", b"three"], right.local)
        with trio.fail_after(5):
            arrivals = await right.receive()
        assert [(arrival.data, arrival.stride) for arrival in arrivals] == [(b"one", 3), (b"", 0), (b"three", 5)]
        assert {arrival.source for arrival in arrivals} == {left.local}
        right.send([b"back"], arrivals[0].source)
        with trio.fail_after(5):
            (answer,) = await left.receive()
        assert answer.datagrams() == [b"back"]
        assert not left.drops
        assert not right.drops


@pytest.mark.parametrize(("host", "largest"), [("127.0.0.1", 65_507), ("::1", 65_527)])
async def test_the_largest_datagram_arrives_whole_and_a_larger_one_is_counted(host: str, largest: int) -> None:
    with pair(host) as (left, right):
        data = os.urandom(largest)
        left.send([data + b"x", data], right.local, may_fragment=True)
        with trio.fail_after(5):
            (arrival,) = await right.receive()
        assert arrival.data == data
        assert left.drops == {"udp_emsgsize": 1}
        assert not right.drops


@pytest.mark.parametrize("offloads", [True, False])
async def test_a_datagram_that_was_cut_is_counted_and_not_given_on(
    monkeypatch: pytest.MonkeyPatch, *, offloads: bool
) -> None:
    monkeypatch.setattr(udp, "DATAGRAM_SPACE", 100)
    with pair("127.0.0.1", offloads=offloads) as (left, right):
        for length in (101, 99):
            left.send([bytes(length)], right.local)
        with trio.fail_after(5):
            (arrival,) = await right.receive()
        assert arrival.data == bytes(99)
        assert right.drops == {"udp_truncated": 1}


async def test_a_receive_takes_a_budget_then_lets_others_run() -> None:
    sent = [b"%d" % number for number in range(udp.RECEIVE_BUDGET + 5)]
    with pair("127.0.0.1", offloads=False) as (left, right):
        left.send(sent, right.local)
        first = await right.receive()
        with trio.testing.assert_checkpoints():  # packets are there at once, and yet others get their turn
            rest = await right.receive()
        assert (len(first), len(rest)) == (udp.RECEIVE_BUDGET, 5)
        assert [arrival.data for arrival in first + rest] == sent
        with trio.move_on_after(0.05) as quiet:
            await right.receive()
        assert quiet.cancelled_caught, "an empty socket is waited for"


async def test_an_icmp_error_of_an_earlier_datagram_does_not_end_the_reader() -> None:
    with pair("127.0.0.1") as (left, right):
        with opened("127.0.0.1") as (gone,):
            nobody = gone.local
        # Linux shows an unconnected socket such errors only when asked.
        right._socket.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        right.send([b"into the void"], nobody)
        left.send([b"hello"], right.local)
        with trio.fail_after(5):
            (arrival,) = await right.receive()
        assert arrival.data == b"hello"
        assert right.drops == {"udp_econnrefused": 1}


@pytest.mark.parametrize("offloads", [True, False])
async def test_a_broken_socket_ends_the_reader_after_what_was_read(*, offloads: bool) -> None:
    with pair("127.0.0.1", offloads=offloads) as (left, right):
        left.send([b"kept"], right.local)
        await trio.lowlevel.wait_readable(right._socket)
        real = right._socket

        class Breaking:
            """A socket whose second read fails as no passing error does."""

            reads = 0

            def __getattr__(self, name: str) -> Any:
                return self.read if name in ("recvfrom", "recvmsg") else getattr(real, name)

            def read(self, *arguments: Any) -> object:
                self.reads += 1
                if self.reads > 1:
                    raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
                return real.recvmsg(*arguments) if offloads else real.recvfrom(*arguments)

        right._socket = Breaking()  # type: ignore[assignment]
        try:
            (arrival,) = await right.receive()
            assert arrival.data == b"kept"
            left.send([b"never read"], right.local)
            with trio.fail_after(5), pytest.raises(PortError, match="ENOTCONN"):
                await right.receive()
        finally:
            right._socket = real


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        (("127.0.0.1", 0), "udp_einval"),
        (("127.255.255.255", 9), "udp_eacces"),
    ],
)
async def test_what_the_kernel_refuses_to_send_is_counted(destination: Address, reason: str) -> None:
    with opened(None) as (ipv4, *_):
        ipv4.send([b"a", b"b"], destination)
        assert ipv4.drops == {reason: 2}


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE, errno.ENETUNREACH, errno.EPERM])
async def test_one_refused_datagram_does_not_hold_up_the_others(number: int) -> None:
    class Refusing:
        """A socket whose kernel refuses the second datagram."""

        sent: list[bytes] = []  # noqa: RUF012

        def sendto(self, datagram: bytes, _destination: Address) -> None:
            if datagram == b"second":
                raise OSError(number, os.strerror(number))
            self.sent.append(datagram)

    with pair("127.0.0.1", offloads=False) as (left, right):
        real, left._socket = left._socket, Refusing()  # type: ignore[assignment]
        Refusing.sent.clear()
        try:
            left.send([b"first", b"second", b"third"], right.local)
        finally:
            left._socket = real
        assert Refusing.sent == [b"first", b"third"]
        assert left.drops == {f"udp_{errno.errorcode[number].lower()}": 1}


@in_namespace
async def test_what_is_longer_than_the_device_bears_is_refused_unless_it_may_be_fragmented() -> None:
    await trio.run_process(["ip", "link", "set", "lo", "mtu", "1280"])
    for host, longest in (("127.0.0.1", 1252), ("::1", 1232)):
        for offloads in (True, False):
            with pair(host, offloads=offloads) as (left, right):
                left.send([b"a" * 1400, b"b" * longest], right.local)
                assert left.drops == {"udp_emsgsize": 1}
                left.send([b"c" * 1400] * 2, right.local, may_fragment=True)
                assert left.drops == {"udp_emsgsize": 1}
                left.send([b"d" * 1400] * 3, right.local)
                left.send([b"e" * longest], right.local)
                left.send([b"f" * 1400], right.local, may_fragment=True)
                assert left.drops == {"udp_emsgsize": 4}
                arrived: list[bytes] = []
                with trio.fail_after(5):
                    while len(arrived) < 5:
                        for arrival in await right.receive():
                            arrived += arrival.datagrams()
                expected = [("b", longest), ("c", 1400), ("c", 1400), ("e", longest), ("f", 1400)]
                assert [(data[:1].decode(), len(data)) for data in arrived] == expected


async def test_the_socket_is_told_only_when_the_other_kind_is_sent() -> None:
    with pair("127.0.0.1") as (left, right):
        real, told = left._socket, []

        class Told:
            """A socket that tells of its options, and whose kernel does not know this one."""

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def setsockopt(self, *option: int) -> None:
                told.append(option)
                raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

        left._socket = Told()  # type: ignore[assignment]
        try:
            for may_fragment in (False, False, True, True, False):
                left.send([b"hello"], right.local, may_fragment=may_fragment)
        finally:
            left._socket = real
        option = udp_sending.MTU_DISCOVER[socket.AF_INET]
        assert told == [(*option, udp_sending.PMTUDISC_WANT), (*option, udp_sending.PMTUDISC_PROBE)]
        with trio.fail_after(5):
            assert sum([len(arrival.datagrams()) for arrival in await right.receive()]) == 5
        assert not left.drops


async def test_an_address_of_the_other_family_is_the_callers_mistake() -> None:
    with pair("127.0.0.1") as (ipv4, _), pair("::1") as (ipv6, _):
        for sock, wrong in ((ipv4, ipv6.local), (ipv6, ipv4.local)):
            with pytest.raises(LocalError, match="address families"):
                sock.send([b"lost"], wrong)
            assert not sock.drops


async def test_a_receive_buffer_that_overflowed_is_counted() -> None:
    with pair("127.0.0.1", offloads=False) as (left, right):
        right._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 300_000)
        sent, got = 2000, 0
        left.send([bytes(100)] * sent, right.local)
        while got + right.drops["receive_buffer_full"] < sent:
            with trio.fail_after(5):
                got += len(await right.receive())
        assert 0 < right.drops["receive_buffer_full"] == sent - got


async def test_a_kernel_that_does_not_count_overflows_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "SO_MEMINFO", 0x7FFF)
    with pair("127.0.0.1", offloads=False) as (left, right):
        left.send([b"x"] * udp.RECEIVE_BUDGET, right.local)
        assert len(await right.receive()) == udp.RECEIVE_BUDGET


async def test_closing_wakes_the_reader_and_frees_the_port() -> None:
    (sock,) = open_udp("127.0.0.1", 0)

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await sock.receive()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            sock.close()
    sock.close()
    with pytest.raises(trio.ClosedResourceError):
        await sock.receive()
    sock.send([b"lost"], sock.local)
    assert sock.drops == {"udp_ebadf": 1}
    with opened("127.0.0.1", sock.local[1]):
        pass


async def test_closing_while_a_budget_is_being_continued_ends_the_reader() -> None:
    with pair("127.0.0.1", offloads=False) as (left, right):
        left.send([b"x"] * (udp.RECEIVE_BUDGET + 1), right.local)
        await right.receive()

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await right.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.lowlevel.checkpoint()
            right.close()


def test_no_address_means_both_families_on_one_port() -> None:
    with opened(None) as (ipv4, ipv6):
        assert ipv4.local[0] == "0.0.0.0"
        assert ipv6.local[0] == "::"
        assert ipv4.local[1] == ipv6.local[1] != 0
        with pytest.raises(PortError):
            open_udp(None, ipv4.local[1])


def test_a_port_free_in_ipv4_alone_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        blocker = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        blocker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        blocker.bind(("::", 0))
        taken = blocker.getsockname()[1]
        bind, asked = udp_binding._bind, []

        def steered(family: socket.AddressFamily, address: Address) -> socket.socket:
            """As if the kernel had picked the port that is taken in IPv6, the first time."""
            asked.append(address)
            return bind(family, ("0.0.0.0", taken) if len(asked) == 1 else address)

        monkeypatch.setattr(udp_binding, "_bind", steered)
        ipv4, ipv6 = stack.enter_context(opened(None))
        assert ipv4.local[1] == ipv6.local[1] != taken
        assert asked[1] == ("::", taken)
        with pytest.raises(PortError, match="EADDRINUSE"):
            open_udp(None, taken)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("0.0.0.0", taken))  # the failed attempts left nothing behind


def test_the_search_for_a_common_port_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = 0

    def refuse(_port: int) -> list[socket.socket]:
        nonlocal attempts
        attempts += 1
        raise PortError("cannot listen") from OSError(errno.EADDRINUSE, "taken")

    monkeypatch.setattr(udp_binding, "_bind_both", refuse)
    with pytest.raises(PortError):
        open_udp(None, 0)
    assert attempts == udp_binding.SAME_PORT_ATTEMPTS


def without_family(*lacking: int) -> Callable[..., socket.socket]:
    real = socket.socket

    def make(family: int, kind: int) -> socket.socket:
        if family in lacking:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return real(family, kind)

    return make


@pytest.mark.parametrize(
    ("lacking", "present"), [(socket.AF_INET6, ["0.0.0.0"]), (socket.AF_INET, ["::"])], ids=["ipv6", "ipv4"]
)
def test_a_host_without_one_family_gets_the_other(
    lacking: int, present: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket", without_family(lacking))
    with opened(None) as sockets:
        assert [sock.local[0] for sock in sockets] == present


def test_a_host_without_any_family_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket", without_family(socket.AF_INET, socket.AF_INET6))
    with pytest.raises(PortError, match="EAFNOSUPPORT"):
        open_udp(None, 0)


def test_a_taken_port_is_named_with_the_fix() -> None:
    with opened("127.0.0.1") as (holder,):
        port = holder.local[1]
        with pytest.raises(PortError) as caught:
            open_udp("127.0.0.1", port)
        assert caught.value.what == f"cannot listen on 127.0.0.1:{port}"
        assert caught.value.why == f"EADDRINUSE: another process has UDP port {port}"
        assert caught.value.fix == f"stop it (sudo ss -ulpn 'sport = :{port}' names it), or listen on another port"


@pytest.mark.parametrize("address", ["192.0.2.99", "2001:db8::99"])
def test_an_address_that_is_not_ours_is_explained(address: str) -> None:
    with pytest.raises(PortError, match="EADDRNOTAVAIL") as caught:
        open_udp(address, 0)
    assert "ip address" in caught.value.fix


@pytest.mark.parametrize("address", ["localhost", "example.com", "", "300.1.2.3", "a" * 300, "\ud800"])
def test_an_address_that_is_not_numeric_is_explained_without_asking_the_network(address: str) -> None:
    with pytest.raises(PortError, match="not a numeric"):
        open_udp(address, 0)


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_out_of_range_is_the_callers_mistake(port: int) -> None:
    with pytest.raises(LocalError):
        open_udp(None, port)


def test_buffers_are_large() -> None:
    with opened("127.0.0.1") as (sock,):
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            granted = sock._socket.getsockopt(socket.SOL_SOCKET, option)
            assert granted >= 2 * udp_binding.BUFFER_BYTES if os.geteuid() == 0 else granted > 0


def test_without_privilege_the_plain_buffer_option_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprivileged(socket.socket):
        def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
            if option in (udp_binding.SO_RCVBUFFORCE, udp_binding.SO_SNDBUFFORCE):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            super().setsockopt(level, option, value)

    default = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    small = default.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    default.close()
    monkeypatch.setattr("socket.socket", Unprivileged)
    with opened("127.0.0.1") as (sock,):
        assert sock._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > small


def test_a_socket_that_cannot_be_bound_is_closed() -> None:
    with opened("127.0.0.1") as (holder,):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(PortError):
            open_udp("127.0.0.1", holder.local[1])
        assert len(os.listdir("/proc/self/fd")) == before


@in_namespace
def test_ipv6_switched_off_and_networks_unreachable_are_survived() -> None:
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    with opened(None) as sockets:
        ipv4, ipv6 = sockets
        ipv4.send([b"nowhere"], ("192.0.2.1", 9))
        ipv6.send([b"nowhere"], ("2001:db8::1", 9, 0, 0))
        assert ipv4.drops == {"udp_enetunreach": 1}
        assert ipv6.drops.total() == 1


@pytest.mark.parametrize("offloads", [True, False])
@pytest.mark.parametrize("host", LOOPBACKS)
async def test_datagrams_that_come_alone_arrive_as_others_do(host: str, *, offloads: bool) -> None:
    with pair(host, offloads=offloads) as (left, right):
        for number in range(6):
            left.send_lone(b"%d" % number, right.local, may_fragment=number == 3)
            with trio.fail_after(5):
                (arrival,) = await right.receive()
            assert arrival == (left.local, b"%d" % number, 1, None)
            assert type(arrival) is Arrival
            assert left._may_fragment is (number == 3)
        left.send_lone(bytes(70_000), right.local)
        assert left.drops == {"udp_emsgsize": 1}
        with pytest.raises(LocalError, match="different address families"):
            left.send_lone(b"", ("::1", 1, 0, 0) if host == "127.0.0.1" else ("127.0.0.1", 1))
        left.send_lone(bytes(3000), right.local)  # as it happens among the others
        left.send_lone(b"behind", right.local)
        with trio.fail_after(5):
            arrivals = await right.receive()
            arrivals += [] if len(arrivals) == 2 else await right.receive()
        assert [len(each.data) for each in arrivals] == [3000, 6]


async def test_ways_to_one_destination_may_differ_in_what_the_network_may_take_apart() -> None:
    with pair("127.0.0.1") as (left, right):
        ways = {may: left.lone_sender(right.local, may_fragment=may) for may in (False, True)}
        for may in (False, True, True, False):
            ways[may](b"x")
            with trio.fail_after(5):
                (arrival,) = await right.receive()
            assert arrival.data == b"x"
            assert left._may_fragment is may
        ways[False](bytes(70_000))
        assert left.drops == {"udp_emsgsize": 1}
        with pytest.raises(LocalError, match="different address families"):
            left.lone_sender(("::1", 1, 0, 0))(b"")


async def test_an_error_of_a_socket_to_which_datagrams_come_alone_is_counted_or_told() -> None:
    with pair("127.0.0.1") as (left, right):
        for word in (b"one", b"two"):
            left.send_lone(word, right.local)
            await right.receive()

        class Failing:
            def __init__(self, number: int) -> None:
                self.number = number

            def recvmsg(self, *_sizes: int) -> None:
                raise OSError(self.number, os.strerror(self.number))

            def fileno(self) -> int:
                return real.fileno()

        real, right._socket = right._socket, Failing(errno.ECONNREFUSED)  # type: ignore[assignment]
        assert right._drain_lone() == []
        assert right.drops == {"udp_econnrefused": 1}
        right._socket = Failing(errno.EBADF)  # type: ignore[assignment]
        with pytest.raises(PortError, match="lost the UDP socket"):
            right._drain_lone()
        right._socket = real
