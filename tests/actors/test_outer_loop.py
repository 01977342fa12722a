"""The loop that Trio is a guest of: who has a turn when, what becomes of a reader's error, and how it ends."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from holloway.actors import tun
from holloway.actors.kernel import KernelPorts
from holloway.actors.outer_loop import OuterLoop
from holloway.actors.udp_binding import open_udp
from holloway.protocols.arrivals import Arrival
from holloway.protocols.packets import Packet
from holloway.protocols.virtio import PLAIN

pytestmark = pytest.mark.timeout(20)


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    right.setblocking(False)
    with left, right:
        yield left, right


def test_it_gives_what_the_program_gives() -> None:
    async def main(number: int) -> int:
        await trio.sleep(0.001)
        return number + 1

    assert OuterLoop().run(main, 6) == 7


def test_it_raises_what_the_program_raises() -> None:
    async def main() -> None:
        await trio.sleep(0.001)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        OuterLoop().run(main)


def test_nothing_of_it_is_left_open() -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()

    OuterLoop().run(main)  # the threads that Trio keeps
    gc.collect()  # loops of earlier tests, whose bells go with them
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        OuterLoop().run(main)
    assert set(os.listdir("/proc/self/fd")) <= before, "what others have left to the collector may go meanwhile"


def test_readers_and_tasks_have_their_turns() -> None:
    loop = OuterLoop()
    log: list[str] = []

    async def main() -> None:
        with pair() as (left, right):
            done = trio.Event()

            def read(is_rested: bool) -> None:
                assert trio.current_time() > 0, "a reader may ask Trio what needs no task"
                log.append(right.recv(100).decode())
                if len(log) == 4:
                    done.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.serve, right.fileno(), read)
                for word in (b"one", b"two"):
                    await trio.sleep(0.001)
                    left.send(word)
                left.send(b"three")
                await trio.to_thread.run_sync(left.send, b"four")
                await done.wait()
                nursery.cancel_scope.cancel()
            left.send(b"five")
            await trio.sleep(0.01)

    loop.run(main)
    assert log == ["one", "two", "three", "four"]


def test_a_reader_is_told_whether_something_was_there_before_it_rested() -> None:
    loop = OuterLoop()
    told: list[bool] = []

    async def main() -> None:
        with pair() as (left, right):

            def read(is_rested: bool) -> None:
                told.append(is_rested)
                right.recv(100)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.serve, right.fileno(), read)
                await trio.sleep(0.01)
                timers = [threading.Timer(each / 20, left.send, [b"x"]) for each in range(1, 4)]
                for timer in timers:
                    timer.start()
                await trio.sleep(0.3)
                assert told == [True] * 3
                told.clear()
                for _ in range(3):
                    left.send(b"x")
                await trio.sleep(0.1)
                nursery.cancel_scope.cancel()

    loop.run(main)
    assert told == [False] * 3


def test_a_descriptor_that_always_has_something_keeps_nobody_waiting() -> None:
    loop = OuterLoop()
    read, other = [0], [0]

    async def main() -> None:
        with pair() as (left, right), pair() as (left_2, right_2):
            left.send(b"x")

            def read_never(_: bool) -> None:
                read[0] += 1

            def read_other(_: bool) -> None:
                right_2.recv(100)
                other[0] += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.serve, right.fileno(), read_never)
                nursery.start_soon(loop.serve, right_2.fileno(), read_other)
                for _ in range(20):
                    left_2.send(b"y")
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()

    loop.run(main)
    assert read[0] > 20
    assert other == [20]


def test_what_readers_have_for_tasks_does_not_pile_up_while_there_is_always_something_to_read() -> None:
    loop = OuterLoop()

    async def main() -> None:
        with pair() as (left, right):
            left.send(b"x")
            inlet, outlet = trio.open_memory_channel[int](2)

            def read(_: bool) -> None:
                inlet.send_nowait(
                    sum(range(1000))
                )  # busy, and no system call in which another thread might have its turn

            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.serve, right.fileno(), read)
                for _ in range(300):
                    await outlet.receive()
                assert outlet.statistics().current_buffer_used <= 2, "more would have raised in `read`"
                nursery.cancel_scope.cancel()

    loop.run(main)


def test_what_a_reader_raises_is_raised_where_it_is_served_and_others_are_read_on() -> None:
    loop = OuterLoop()
    log: list[str] = []

    async def main() -> None:
        with pair() as (left, right), pair() as (left_2, right_2):

            def fail(_: bool) -> None:
                raise ValueError("broken")

            left.send(b"x")
            with pytest.raises(ValueError, match="broken"):
                await loop.serve(right.fileno(), fail)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.serve, right_2.fileno(), lambda _: log.append(right_2.recv(9).decode()))
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await loop.serve(right_2.fileno(), fail)
                left_2.send(b"whole")
                await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            with trio.move_on_after(0.01):
                await loop.serve(right.fileno(), lambda _: log.append(right.recv(9).decode()))

    loop.run(main)
    assert log == ["whole", "x"]


def test_one_reader_may_end_another() -> None:
    loop = OuterLoop()
    read: list[int] = []

    async def main() -> None:
        with pair() as (left, right), pair() as (left_2, right_2):
            scope = trio.CancelScope()
            left.send(b"x")
            left_2.send(b"x")

            def end(number: int) -> None:
                read.append(number)
                (right if number == 1 else right_2).recv(9)
                loop._forget((right_2 if number == 1 else right).fileno())

            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(loop.serve, right.fileno(), lambda _: end(1))
                    nursery.start_soon(loop.serve, right_2.fileno(), lambda _: end(2))
                    await trio.sleep(0.02)
                    scope.cancel()

    loop.run(main)
    assert len(read) == 1


class Panic(BaseException):
    """As a library in Rust raises it."""


def test_whatever_a_reader_raises_the_program_ends_in_order() -> None:
    loop = OuterLoop()
    ended: list[str] = []

    async def main() -> None:
        with pair() as (left, right):

            def panic(_: bool) -> None:
                raise Panic

            left.send(b"x")
            try:
                await loop.serve(right.fileno(), panic)
            finally:
                ended.append("in order")

    with pytest.raises(Panic):
        loop.run(main)
    assert ended == ["in order"]
    assert OuterLoop().run(trio.sleep, 0) is None, "Trio runs again"


def test_a_descriptor_that_was_closed_while_it_was_read_is_let_go_of() -> None:
    loop = OuterLoop()

    async def main() -> bool:
        with pair() as (_, right), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.serve, right.fileno(), lambda _: None)
                await trio.testing.wait_all_tasks_blocked()
                right.close()
                scope.cancel()
        return scope.cancelled_caught

    assert loop.run(main)


def test_a_port_that_is_closed_already_says_so_by_the_loop_as_well() -> None:
    loop = OuterLoop()

    async def main() -> None:
        (port,) = open_udp("127.0.0.1", 0)
        port.close()
        with pytest.raises(trio.ClosedResourceError):
            await KernelPorts(loop=loop).serve(port, lambda _: None)

    loop.run(main)


def test_the_bell_can_be_rung_for_as_long_as_anybody_holds_the_loop() -> None:
    loop = OuterLoop()
    loop.run(trio.sleep, 0)
    late = loop._call_soon  # as Trio's thread may, whose last word was heard before it was spoken
    before = os.listdir("/proc/self/fd")
    with pair():
        late(lambda: None)
    assert os.listdir("/proc/self/fd") == before
    number = str(loop._bell)
    del loop, late
    assert number not in os.listdir("/proc/self/fd")


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """As in the foreground: what is started in the background ignores interrupts, and Trio leaves it at that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("is_busy", [False, True])
def test_an_interrupt_ends_the_program_in_order(*, is_busy: bool) -> None:
    loop = OuterLoop()
    ended: list[str] = []

    async def main() -> None:
        with pair() as (left, right):
            if is_busy:
                left.send(b"x")  # nobody takes it
            try:
                threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT]).start()
                await loop.serve(right.fileno(), lambda _: None)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.01)
                ended.append("in order")

    with pytest.raises(KeyboardInterrupt):
        loop.run(main)
    assert ended == ["in order"]


def test_a_signal_that_the_program_waits_for_wakes_it() -> None:
    async def main() -> int:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGTERM]).start()
            with trio.fail_after(5):
                return await anext(signals)
        raise AssertionError

    assert OuterLoop().run(main) == signal.SIGTERM


@pytest.mark.parametrize("is_guest", [False, True])
def test_a_socket_gives_the_same_in_a_task_and_by_the_loop(*, is_guest: bool) -> None:
    loop = OuterLoop()
    found: list[bytes] = []
    got: list[Any] = []

    async def main() -> None:
        ports = KernelPorts(loop=loop if is_guest else None)
        (left,), (right,) = open_udp("127.0.0.1", 0), open_udp("127.0.0.1", 0)
        receive = right.receive
        right.receive = lambda: got.append(1) or receive()  # type: ignore[func-returns-value, method-assign, assignment]

        def take(arrivals: list[Arrival]) -> None:
            for arrival in arrivals:
                found.extend(arrival.datagrams())

        with closing(left), closing(right):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ports.serve, right, take)
                await trio.sleep(0.01)
                for number in range(4):  # each alone
                    left.send_lone(b"%d" % number, right.local)
                    await trio.sleep(0.01)
                left.send([bytes([number % 250]) * 1200 for number in range(300)], right.local)
                left.send_lone(bytes(3000), right.local)
                await trio.sleep(0.1)
                nursery.cancel_scope.cancel()

    loop.run(main)
    assert found[:4] == [b"0", b"1", b"2", b"3"]
    assert found[4:] == [bytes([number % 250]) * 1200 for number in range(300)] + [bytes(3000)]
    assert bool(got) is not is_guest


async def one_by_one(send: Callable[[bytes], object], words: Sequence[bytes]) -> None:
    """By a thread: what a task sends is there before the loop rests."""

    def send_all() -> None:
        for word in words:
            time.sleep(0.01)
            send(word)
        time.sleep(0.01)

    await trio.to_thread.run_sync(send_all)


def test_a_socket_gives_alone_what_comes_alone() -> None:
    loop = OuterLoop()
    together: list[bytes] = []
    alone: list[bytes] = []

    async def main() -> None:
        ports = KernelPorts(loop=loop)
        (left,), (right,) = open_udp("127.0.0.1", 0), open_udp("127.0.0.1", 0)

        def take(arrivals: list[Arrival]) -> None:
            for arrival in arrivals:
                together.extend(arrival.datagrams())

        def take_lone(arrival: Arrival) -> None:
            assert arrival == (left.local, arrival.data, len(arrival.data), None)
            assert type(arrival) is Arrival
            alone.append(bytes(arrival.data))

        with closing(left), closing(right):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ports.serve, right, take, take_lone)
                await trio.sleep(0.01)
                send = left.lone_sender(right.local)
                await one_by_one(send, [b"0", b"1", b"2", b"3", bytes(3000)])
                left.send([bytes([number]) * 1200 for number in range(40)], right.local)
                await trio.sleep(0.1)
                nursery.cancel_scope.cancel()

    loop.run(main)
    assert together[0] == b"0", "only then it is known that they come alone"
    assert alone == [b"1", b"2", b"3"]
    assert together[1:] == [bytes(3000)] + [bytes([number]) * 1200 for number in range(40)]


def test_a_device_gives_alone_what_comes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tun, "has_virtio_header", lambda _: True)
    monkeypatch.setattr(tun, "agree", lambda _, **__: ())
    loop = OuterLoop()
    together: list[Packet] = []
    alone: list[Packet] = []

    async def main() -> None:
        host, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        device = tun.KernelTun(end.detach(), "hw0", 1400)
        with host, closing(device):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(KernelPorts(loop=loop).serve, device, together.extend, alone.append)
                await trio.sleep(0.01)
                words = [b"0", b"1", b"2", bytes(3000), b"4", b"5"]
                await one_by_one(host.send, [*(PLAIN + word for word in words), b"malformed", PLAIN + b"6"])
                nursery.cancel_scope.cancel()
            assert device.drops == {"tun_malformed": 1}

    loop.run(main)
    assert together == [b"0", bytes(3000), b"4"], "the first of a row of lone ones is not known to be one"
    assert alone == [b"1", b"2", b"5", b"6"]


def test_looking_calls_urgent_readers_alone_and_not_within_one_of_them() -> None:
    seen: list[str] = []

    async def main() -> None:
        with pair() as (left, first), pair() as (other, urgent):

            def read_first(_: bool) -> None:
                first.recv(10)
                seen.append("first")
                other.send(b"x")
                left.send(b"y")
                loop.look()
                seen.append("looked")
                nursery.cancel_scope.cancel()

            def read_urgent(_: bool) -> None:
                urgent.recv(10)
                seen.append("urgent")
                other.send(b"z")
                loop.look()

            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    await loop.serve(first.fileno(), read_first, urgent=(urgent.fileno(), read_urgent))

                nursery.start_soon(serve)
                left.send(b"a")
                await trio.sleep_forever()

    loop = OuterLoop()
    loop.run(main)
    assert seen[:3] == ["first", "urgent", "looked"]


def test_what_an_urgent_reader_raises_is_raised_where_it_is_served() -> None:
    async def main() -> None:
        with pair() as (left, first), pair() as (other, urgent):

            def read_first(_: bool) -> None:
                first.recv(10)
                other.send(b"x")
                loop.look()

            def read_urgent(_: bool) -> None:
                raise ValueError("no")

            left.send(b"a")
            with trio.fail_after(5), pytest.raises(ValueError, match="no"):
                await loop.serve(first.fileno(), read_first, urgent=(urgent.fileno(), read_urgent))
            assert not {first.fileno(), urgent.fileno()} & loop._readers.keys()

    loop = OuterLoop()
    loop.run(main)


def test_who_cannot_be_served_leaves_nothing_behind() -> None:
    async def main() -> None:
        with pair() as (left, right):
            closed = socket.socket()
            number = closed.fileno()
            closed.close()
            for _ in range(2):
                with pytest.raises(OSError, match="Bad file"):
                    await loop.serve(right.fileno(), print, urgent=(number, print))  # type: ignore[arg-type]
            seen: list[bytes] = []

            def read(_: bool) -> None:
                seen.append(right.recv(10))
                nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.serve, right.fileno(), read)
                left.send(b"x")
            assert seen == [b"x"]

    loop = OuterLoop()
    loop.run(main)
