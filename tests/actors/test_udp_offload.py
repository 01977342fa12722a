"""Runs of datagrams, one system call each: cut, sent, received and, where they are refused, replaced."""

from __future__ import annotations

import errno
import logging
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from namespaces import in_namespace, namespaces, needs_namespaces, run_in, start_in
from udp_pairs import flat, numbered, pair, take

from holloway.actors import udp, udp_binding, udp_offload
from holloway.actors.kernel import KernelPorts
from holloway.actors.udp import UdpSocket
from holloway.actors.udp_binding import open_udp
from holloway.actors.udp_offload import RUN_DATAGRAMS, SOL_UDP, UDP_GRO, RunRefusals, gathered, stride_of
from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import RunMemory
from holloway.protocols.runs import MAX_RUN_BYTES, Run, flatten, lone_run

LOOPBACKS = ["127.0.0.1", "::1"]


class Meddling:
    """A socket, but for what a test replaces. `calls` names what was called through it."""

    def __init__(self, real: socket.socket, **replaced: Callable[..., object]) -> None:
        self.real, self.replaced, self.calls = real, replaced, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return self.replaced.get(name) or getattr(self.real, name)


@contextmanager
def meddling(port: UdpSocket, **replaced: Callable[..., object]) -> Iterator[Meddling]:
    meddler = Meddling(port._socket, **replaced)
    port._socket = meddler  # type: ignore[assignment]
    try:
        yield meddler
    finally:
        port._socket = meddler.real


LENGTHS = st.sampled_from([0, 1, 2, 500, 1399, 1400, 30_000, MAX_RUN_BYTES, MAX_RUN_BYTES + 1])


@st.composite
def runs_to_send(draw: st.DrawFn) -> list[Run]:
    """Lone datagrams and runs of them, in one part or in several."""
    made = []
    for stride in draw(st.lists(LENGTHS, max_size=60)):
        number = draw(st.sampled_from([1, 1, 2, 45, 64, 70])) if stride else 1
        length = stride * number - (draw(st.integers(0, stride - 1)) if number > 1 else 0)
        data = bytes(length)
        cut_at = draw(st.integers(0, length))
        made.append(Run((memoryview(data)[:cut_at], data[cut_at:]), stride, length))
    return made


@settings(deadline=None)
@given(runs_to_send())
def test_few_calls_carry_the_same_datagrams_in_order(runs: list[Run]) -> None:
    calls = list(gathered(runs))
    assert [datagram for call in calls for datagram in call.datagrams()] == flatten(runs)
    for call in calls:
        whole = call.datagrams()
        assert len(whole) == call.number
        assert {len(datagram) for datagram in whole[:-1]} <= {call.stride}
        assert len(whole[-1]) <= call.stride
        size = sum(map(len, whole))
        assert call.number == 1 or (call.number <= RUN_DATAGRAMS and size <= MAX_RUN_BYTES and all(whole))


@settings(deadline=None)
@given(st.lists(LENGTHS, max_size=200))
def test_lone_datagrams_are_put_into_as_few_calls_as_there_can_be(lengths: list[int]) -> None:
    calls = [call.datagrams() for call in gathered([lone_run(bytes(length)) for length in lengths])]
    for call, following in pairwise(calls):
        if following[0] and len(call[-1]) == len(call[0]) >= len(following[0]):
            has_no_room = len(call) == RUN_DATAGRAMS or sum(map(len, call)) + len(following[0]) > MAX_RUN_BYTES
            assert has_no_room, "a call ends early for no reason"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, SOL_UDP]), st.sampled_from([0, UDP_GRO]), st.binary(max_size=9))),
    st.integers(0, 65_535),
)
def test_no_control_message_can_make_a_stride_that_is_not_one(
    ancillary: list[tuple[int, int, bytes]], length: int
) -> None:
    stride = stride_of(ancillary, length)
    assert stride == length or 0 < stride < length


def test_the_stride_is_the_kernels_segment_size() -> None:
    message = (SOL_UDP, UDP_GRO, struct.pack("=i", 1400))
    assert stride_of([(socket.SOL_IP, 1, b"\x01\x00"), message], 2000) == 1400
    assert stride_of([message], 1400) == 1400
    assert stride_of([(SOL_UDP, UDP_GRO, struct.pack("=i", -5))], 100) == 100
    assert stride_of([], 100) == 100


MIXED = numbered(0, 0, 100, 100, 100, 40, 40, 0, 1400, 1400, 1399, 1400, 60_000, 60_000, 1, 2, 3, 3, 1, 0)


@pytest.mark.parametrize("receives", [True, False], ids=["gro", "no-gro"])
@pytest.mark.parametrize("sends", [True, False], ids=["gso", "no-gso"])
@pytest.mark.parametrize("host", LOOPBACKS)
async def test_every_datagram_arrives_as_it_was_sent(host: str, *, sends: bool, receives: bool) -> None:
    with pair(host, sends=sends, receives=receives) as (left, right):
        left.send(MIXED, right.local)
        arrivals = await take(right, len(MIXED))
        assert flat(arrivals) == MIXED
        assert {arrival.source for arrival in arrivals} == {left.local}
        assert (len(arrivals) < len(MIXED)) == receives, "what did not come as runs is joined to runs"
        assert not left.drops + right.drops + left.refused_runs


@pytest.mark.parametrize(
    ("count", "length", "expected"),
    [
        (RUN_DATAGRAMS * 2 + 1, 100, [RUN_DATAGRAMS, RUN_DATAGRAMS, 1]),
        (100, 1400, [46, 46, 8]),
        (50, 1456, [44, 6]),
        (46, 1424, [45, 1]),  # in one run 65 504 bytes, which the kernel takes, and cuts in software
        (3, 30_000, [2, 1]),
    ],
)
@pytest.mark.parametrize("host", LOOPBACKS)
async def test_more_than_one_run_can_hold_goes_out_as_several(
    host: str, count: int, length: int, expected: list[int]
) -> None:
    sent = numbered(*[length] * count)
    with pair(host) as (left, right):
        left.send(sent, right.local)
        whole = [right._socket.recv(65_536) for _ in expected]
        assert [len(run) // length for run in whole] == expected
        assert b"".join(whole) == b"".join(sent)
        assert not left.refused_runs


async def test_a_run_is_one_system_call_at_each_end() -> None:
    sent = numbered(*[1400] * 40, 7)
    with pair("127.0.0.1") as (left, right), meddling(left) as sending, meddling(right) as receiving:
        left.send(sent, right.local)
        assert sending.calls == ["sendmsg"]
        assert flat(await right.receive()) == sent
        assert receiving.calls.count("recvmsg") == 1


async def test_later_runs_come_in_memory_that_the_next_receive_uses_again() -> None:
    with pair("127.0.0.1") as (left, right):
        kept: list[bytes] = []
        expected: list[bytes] = []
        for number in range(4):
            sent = numbered(*[1000 + number] * 20) * 3
            expected += sent
            left.send(sent, right.local)
            arrivals = await right.receive()
            kept += flat(arrivals)
        assert isinstance(arrivals[0].data, memoryview)
        assert kept == expected
        left.send([b"alone"], right.local)
        assert flat(await take(right, 1)) == [b"alone"]
        left.send([b"alone again"], right.local)
        (arrival,) = await right.receive()
        assert isinstance(arrival.data, bytes), "without runs each datagram has memory of its own"


async def test_what_comes_in_bulk_lies_at_the_beginning_of_memory_that_is_used_again() -> None:
    long, short = numbered(*[1400] * 40), numbered(*[1400] * 10)
    with pair("127.0.0.1") as (left, right):
        left.send(long, right.local)
        await take(right, len(long))  # from now on it is bulk
        known: list[RunMemory | None] = []
        for sent in (long + long, long + long + short + short, long):
            left.send(sent, right.local)
            arrivals = await right.receive()
            (first,) = arrivals
            assert first.memory is not None
            got = first.datagrams()
            while (following := right.more()) is not None:
                assert following.memory is first.memory, "each in the memory of the one before"
                assert first.memory.view[: len(following.data)] == following.data
                got += following.datagrams()
            if len(got) < len(sent):
                got += flat(await take(right, len(sent) - len(got)))
            assert got == sent
            known.append(first.memory)
        assert known == known[:1] * 3


async def test_whatever_comes_in_bulk_is_taken_whole() -> None:
    chance = random.Random(3)
    lengths = {
        "of two lengths": [1400 if number % 2 else 900 for number in range(300)],
        "longer and longer": list(range(1000, 1400)),
        "of any length": [chance.choice([0, 16, 40, 80, 900, 1400, 9000]) for _ in range(400)],
        "long ones": [60_000, 30_000, 65_000, 40_000, 65_500, 100, 65_507] * 3,
    }
    for each in lengths.values():
        for sends in (False, True):
            with pair("127.0.0.1", sends=sends) as (left, right):
                left.send(numbered(*[1400] * 40), right.local)
                await take(right, 40)  # from now on it is bulk
                for _ in range(3):
                    sent = numbered(*each)
                    left.send(sent, right.local)
                    assert flat(await take(right, len(sent))) == sent
                assert not right.drops


async def test_what_comes_alone_in_bulk_is_joined_to_runs() -> None:
    sent = numbered(*[1400] * 150, 30, *[1400] * 10)
    with pair("127.0.0.1", sends=False) as (left, right):
        left.send(sent, right.local)
        arrivals = await take(right, len(sent))
        assert flat(arrivals) == sent
        few = [1] * udp.FEW_DATAGRAMS
        assert [len(arrival.datagrams()) for arrival in arrivals] == [*few, 46, 46, 43, 10]
        left.send(sent, right.local)
        assert len(await take(right, len(sent))) == 5, "the next turn is bulk from its first datagram on"


async def test_datagrams_of_several_senders_stay_apart_and_in_order() -> None:
    chance = random.Random(7)
    with pair("127.0.0.1") as (runs_of, right), pair("127.0.0.1", sends=False) as (ones_of, other):
        for _ in range(40):
            sent: dict[Address, list[bytes]] = {port.local: [] for port in (runs_of, ones_of, other)}
            for number in range(chance.choice([1, 3, 20, 60])):
                port = chance.choice([runs_of, ones_of, other])
                lengths = chance.choices([0, 1, 50, 100, 100, 1400, 1400, 5000], k=chance.choice([1, 1, 2, 10]))
                batch = [bytes([number]) * length for length in lengths]
                port.send(batch, right.local)
                sent[port.local] += batch
            arrivals = await take(right, sum(map(len, sent.values())))
            for source, expected in sent.items():
                assert flat([arrival for arrival in arrivals if arrival.source == source]) == expected
            assert all(len(arrival.data) < udp.DATAGRAM_SPACE for arrival in arrivals)


async def test_a_receive_takes_a_budget_of_bytes_then_lets_others_run() -> None:
    run = numbered(*[1400] * 40)
    sent = run * (3 * udp.RECEIVE_BUDGET_BYTES // (40 * 1400))
    with pair("127.0.0.1") as (left, right):
        left.send(sent, right.local)
        got = flat(await right.receive())
        while len(got) < len(sent):
            with trio.testing.assert_checkpoints():
                arrivals = await right.receive()
            taken = sum(len(arrival.data) for arrival in arrivals)
            assert taken < udp.RECEIVE_BUDGET_BYTES + udp.DATAGRAM_SPACE
            got += flat(arrivals)
        assert got == sent


@pytest.mark.parametrize("sends", [True, False], ids=["gso", "no-gso"])
async def test_a_receive_takes_a_budget_of_tiny_datagrams_too(*, sends: bool) -> None:
    sent = [b"%03d" % (number % 1000) for number in range(4 * udp.RECEIVE_BUDGET)]
    with pair("127.0.0.1", sends=sends) as (left, right):
        left.send(sent, right.local)
        first = flat(await right.receive())
        assert udp.RECEIVE_BUDGET <= len(first) < udp.RECEIVE_BUDGET + RUN_DATAGRAMS
        assert first + flat(await take(right, len(sent) - len(first))) == sent


async def test_where_datagrams_come_alone_each_is_given_on_before_the_next_is_asked_for() -> None:
    with pair("127.0.0.1") as (left, right):
        left.send([b"alone"], right.local)
        await right.receive()
        left.send([b"first"], right.local)
        left.send([b"second"], right.local)
        left.send([b"third"], right.local)
        with meddling(right) as meddler:
            with trio.testing.assert_checkpoints():
                assert flat(await right.receive()) == [b"first"]
            assert meddler.calls.count("recvmsg") == 1
            with trio.testing.assert_checkpoints():
                assert flat(await right.receive()) == [b"second", b"third"]
        with trio.move_on_after(0.02) as quiet:
            await right.receive()
        assert quiet.cancelled_caught
        left.send([b"before the cancellation"], right.local)
        with trio.CancelScope() as scope:
            scope.cancel()
            await right.receive()
        assert scope.cancelled_caught
        assert flat(await right.receive()) == [b"before the cancellation"]


async def test_a_lone_datagram_that_was_cut_is_no_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "DATAGRAM_SPACE", 100)
    with pair("127.0.0.1") as (left, right):
        for datagram in (b"alone", bytes(101), b"after"):
            left.send([datagram], right.local)
            if datagram == b"alone":
                await right.receive()
        assert flat(await take(right, 1)) == [b"after"]
        assert right.drops == {"udp_truncated": 1}
        left.send([b"x"] * 40, right.local)
        await take(right, 40)
        left.send([bytes(30)] * 4, right.local)  # a run that is cut counts as one
        left.send([b"after"], right.local)
        assert flat(await take(right, 1)) == [b"after"]
        assert right.drops == {"udp_truncated": 2}


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
async def test_datagrams_of_a_refused_run_go_out_one_by_one_and_so_do_the_next(number: int) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    sent = numbered(*[1400] * 3, 40)
    with pair("127.0.0.1") as (left, right), pair("127.0.0.1") as (_, other):
        with meddling(left, sendmsg=refuse) as meddler:
            left.send(sent * 2, right.local)
        assert meddler.calls.count("sendmsg") == 1
        left.send(sent, right.local)  # the kernel would take a run now, but is not asked
        arrivals = await take(right, 3 * len(sent))
        assert flat(arrivals) == sent * 3
        assert {len(arrival.datagrams()) for arrival in arrivals} == {1}
        assert left.refused_runs == {f"udp_{errno.errorcode[number].lower()}": 1}
        assert not left.drops
        left.send(sent, other.local)
        assert [len(arrival.datagrams()) for arrival in await take(other, len(sent))] == [len(sent)]


async def test_a_run_that_cannot_be_sent_is_lost_whole_and_holds_up_no_other() -> None:
    real_sends: list[int] = []

    with pair("127.0.0.1") as (left, right):
        real = left._socket

        def full_once(*arguments: Any) -> int:
            real_sends.append(1)
            if len(real_sends) == 1:
                raise BlockingIOError(errno.EAGAIN, "full")
            return real.sendmsg(*arguments)

        sent = numbered(*[1400] * 3, *[700] * 2)
        with meddling(left, sendmsg=full_once):
            left.send(sent, right.local)
        assert left.drops == {"udp_eagain": 4}
        assert not left.refused_runs
        assert flat(await take(right, 1)) == sent[4:]


async def test_refusals_are_forgotten_after_a_while(mock_clock: trio.testing.MockClock) -> None:
    refusals = RunRefusals()
    here, there = ("192.0.2.1", 1), ("192.0.2.2", 1)
    refusals.note(here, 1300, errno.EMSGSIZE)
    assert [refusals.allows(here, size) for size in (1299, 1300, 1400)] == [True, False, False]
    assert refusals.allows(there, 1400)
    refusals.note(here, 1400, errno.EINVAL)
    assert not refusals.allows(here, 1300), "the shortest that was refused is what counts"
    mock_clock.jump(udp_offload.REFUSED_FOR_S - 0.1)
    assert not refusals.allows(here, 1300)
    mock_clock.jump(0.2)
    assert refusals.allows(here, 1400)
    refusals.note(here, 1300, errno.EIO)
    assert not refusals.allows(here, 1)


async def test_refusals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_offload, "REFUSALS_MAX", 3)
    refusals = RunRefusals()
    destinations: list[Address] = [("192.0.2.1", port) for port in range(1, 6)]
    for destination in destinations:
        refusals.note(destination, 100, errno.EIO)
    assert [refusals.allows(destination, 100) for destination in destinations] == [True, True, False, False, False]


@in_namespace
async def test_datagrams_above_the_mtu_of_the_path_arrive_though_no_run_of_them_can() -> None:
    await trio.run_process(["ip", "link", "set", "lo", "mtu", "1400"])
    long, short = numbered(*[1400] * 4), numbered(*[1300] * 4)
    for host in LOOPBACKS:
        with pair(host) as (left, right):
            for sent in (long, long, short):
                left.send(sent, right.local, may_fragment=True)
            arrivals = await take(right, 12)
            assert flat(arrivals) == long + long + short
            assert [len(arrival.datagrams()) for arrival in arrivals] == [1] * 8 + [4]
            assert left.refused_runs.total() == 1
            assert not left.drops


@in_namespace
async def test_datagrams_that_may_not_be_fragmented_are_counted_one_by_one() -> None:
    await trio.run_process(["ip", "link", "set", "lo", "mtu", "1400"])
    with pair("127.0.0.1") as (left, right):
        left.send(numbered(1400, 1400, 1300), right.local)
        assert flat(await take(right, 1)) == numbered(1400, 1400, 1300)[2:]
        assert left.drops == {"udp_emsgsize": 2}


def test_offloads_tells_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_use(*, offloads: bool = True) -> tuple[str, ...]:
        (port,) = KernelPorts(offloads=offloads).open_datagrams("127.0.0.1", 0)
        assert isinstance(port, UdpSocket)
        port.close()
        return port.offloads

    assert in_use() == ("gso", "gro")
    assert in_use(offloads=False) == ()
    monkeypatch.setattr(udp_offload, "UDP_SEGMENT", 0x7FFF)
    assert in_use() == ("gro",)
    monkeypatch.setattr(udp_offload, "UDP_GRO", 0x7FFF)
    assert in_use() == ()


class Unprivileged(socket.socket):
    """A socket of a process without CAP_NET_ADMIN."""

    def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
        if option in (udp_binding.SO_RCVBUFFORCE, udp_binding.SO_SNDBUFFORCE):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        super().setsockopt(level, option, value)


def test_small_socket_buffers_are_told_once_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("socket.socket", Unprivileged)
    monkeypatch.setattr(udp_binding, "BUFFER_BYTES", 1 << 30)
    with caplog.at_level(logging.INFO, "holloway.udp"):
        for port in open_udp(None, 0):
            port.close()
    (line,) = caplog.messages
    assert "receive buffer" in line
    assert "net.core.rmem_max caps it" in line
    assert f"sudo sysctl -w net.core.rmem_max={1 << 30} net.core.wmem_max={1 << 30}" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel gives large buffers to root only: sudo ./run test")
def test_large_socket_buffers_are_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "holloway.udp"):
        for port in open_udp(None, 0):
            port.close()
    assert not caplog.messages


BETWEEN_HOSTS = """
import ctypes, fcntl, socket, struct, sys, trio
from holloway.actors.udp_binding import open_udp

async def main():
    role, address, target, sends = sys.argv[1:]
    (port,) = open_udp(address, 0 if role == "send" else 7000, offloads=sends != "plain")
    datagrams = [bytes([n % 251]) * (n % 50 and 1400 - n // 500) for n in range(2000)]
    if role == "send":
        if sends == "cut":
            for command in (0x1F, 0x24):  # ETHTOOL_STSO, ETHTOOL_SGSO
                value = ctypes.create_string_buffer(struct.pack("II", command, 0))
                request = struct.pack("16sQ16x", b"eth0", ctypes.addressof(value))
                fcntl.ioctl(port._socket, 0x8946, request)  # SIOCETHTOOL
        for at in range(0, len(datagrams), 100):
            port.send(datagrams[at:at + 100], (target, 7000, 0, 0)[:len(port.local)])
            await trio.sleep(0.001)
        assert not port.drops and not port.refused_runs, (port.drops, port.refused_runs)
        return
    if sends == "cut":
        value = ctypes.create_string_buffer(struct.pack("II", 0x2C, 1))  # ETHTOOL_SGRO
        fcntl.ioctl(port._socket, 0x8946, struct.pack("16sQ16x", b"eth0", ctypes.addressof(value)))
    print("ready", flush=True)
    got, arrivals = [], 0
    with trio.move_on_after(10):
        while len(got) < len(datagrams):
            received = await port.receive()
            arrivals += len(received)
            got += [datagram for arrival in received for datagram in arrival.datagrams()]
    print(got == datagrams, len(got), arrivals < len(got) / 4, port.drops.total())

trio.run(main)
"""


@needs_namespaces
@pytest.mark.parametrize("sends", ["runs", "cut", "plain"])
def test_two_hosts_exchange_runs_over_both_families(sends: str) -> None:
    """ "cut": the sending device cannot carry runs, so that its kernel cuts them, and the receiving one joins them again."""
    path = os.pathsep.join(sys.path)
    with namespaces(2) as (left, right):
        for source, target in ((left.ipv4, right.ipv4), (left.ipv6, right.ipv6)):
            python = [sys.executable, "-c", BETWEEN_HOSTS]
            environment = {**os.environ, "PYTHONPATH": path}
            receiver = start_in(
                right, [*python, "receive", target, source, sends], stdout=subprocess.PIPE, env=environment
            )
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "ready\n"
            run_in(left, [*python, "send", source, target, sends], env=environment)
            whole, count, in_runs, lost = receiver.communicate(timeout=20)[0].split()
            assert (whole, count, lost) == ("True", "2000", "0")
            assert in_runs == str(sends != "plain")
